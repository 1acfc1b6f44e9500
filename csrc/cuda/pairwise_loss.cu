// Pairwise loss and its gradient on a GPU. Rows come sorted by (image, instance): the walk visits pairs of different
// instances, those of one instance are the closed form (4), from sums over the rows of an instance.
// Formula numbers are those of rpe_ops/backends/reference/pairwise_loss.py.
#include "../math/pairwise_term.h"
#include "pairwise_loss.h"
#include "rows.cuh"

namespace rpe {
namespace cuda {
namespace {

// The largest weight of w_j x_j as float16: components keep their 11 bits down to 2^-29 of it.
constexpr float kLargestWeight = 16384.0f;

struct LossWork {
  PairwiseLoss loss;
  Operand points, weighted;
  Half *weighted_high, *weighted_low;
  uint32_t* largest_weight;              // [images], bits
  int32_t *instance, *begin, *end;       // [points]: id, first row and the row after the last of its instance
  int32_t *tiles_before, *edges_before;  // [images + 1]: row tiles of the walk, row groups of the sums
  float *partial_hinge, *partial_grad;   // [splits, points], [splits, points, kDim]
  float *edge_sum, *edge_mass;           // [row groups, kDim], [row groups]
  float *centre, *mass;                  // [points, kDim], [points]: v_q and W_q at the first row of q
  double* row_loss;                      // [points]
  int splits;
};

// Instance ids as int32, where each row's instance begins and ends, and the largest weight of each image.
// Owns     one row a thread.  Tiles: none.  Types: integers; float32 maxima.  Bits: one writer, integer maxima.
RPE_KERNEL(kRowThreads, 1) instance_rows_kernel(LossWork p) {
  const RowLanes<8> lanes(p.loss.num_points);
  lanes.image_maximum(p.largest_weight, lanes.image(p.loss.offsets, p.loss.num_images),
                      lanes.inside ? p.loss.weight[lanes.row] : 0.0f);
  if (!lanes.inside) return;
  const int64_t own = p.loss.instance[lanes.row];
  const auto first_above = [&](int64_t low, int64_t high, int64_t id) {
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (p.loss.instance[middle] <= id) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return int32_t(low);
  };
  p.instance[lanes.row] = int32_t(own);
  p.begin[lanes.row] = first_above(0, lanes.row, own - 1);
  p.end[lanes.row] = first_above(lanes.row, p.loss.num_points, own);
}

RPE_DEVICE float weight_scale(const LossWork& p, int image) {
  return power_of_two(bits_float(p.largest_weight[image]), kLargestWeight);
}

// Rows w_j x_j, scaled by a power of two for each image, as operands.
// Owns     RowLanes::kRows rows.  Tiles: none.  Types: float32 to float16.  Bits: one writer.
template <int kDim>
RPE_KERNEL(kRowThreads, 1)
weighted_rows_kernel(LossWork p) {
  const RowLanes<kDim> lanes(p.loss.num_points);
  const float scale = weight_scale(p, lanes.image(p.loss.offsets, p.loss.num_images));
  const float weight = lanes.inside ? p.loss.weight[lanes.row] * scale : 0.0f;
  float value[8];
  lanes.load(value, p.loss.points, p.loss.dim);
#pragma unroll
  for (int k = 0; k < 8; ++k) value[k] *= weight;
  lanes.store_operand(p.weighted_high, p.weighted_low, value);
}

// Cosines of pairs of one instance become the threshold, at which a pair is not active. `instance` is that of the lane's
// first column of the chunk.
template <class T>
RPE_DEVICE void clear_same_instance(Chunk (&cosine)[T::kRowTiles], const int32_t (&own)[T::kRowTiles][2],
                                    const int32_t* instance, float threshold) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int32_t other = shared_load(instance + k / 2 * 8 + k % 2);
#pragma unroll
    for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (own[m][half] == other) cosine[m][k / 2][2 * half + k % 2] = threshold;
      }
    }
  }
}

// The hinge of (2) and its part of (3) over one split of the columns, both without the row's own weight.
// Computes sum_j w_j 1{y_i != y_j} [c_ij - threshold]_+ and sum_j 1{y_i != y_j} 1{c_ij > threshold} (w_j x_j).
// Owns     kBlockM rows of one image; thread block (row tile, split, slice). Instances are compared only in tiles that
//          hold some of the rows' own; column tiles inside the only instance of a row tile are passed over, and so is the
//          second product of sixteen columns where no pair of the warp is active.
// Tiles    x_i [kBlockM, kDim] as fragments, x_j and w_j x_j [kBlockN, kDim] in kStages stages of shared memory.
// Types    loads float16 (kSplit: in two parts), accumulates and stores float32; the mask is exact.
// Bits     one writer per row, split and slice, columns in order: deterministic.
template <class T>
RPE_KERNEL(T::kThreads, T::kBlocksWanted)
hinge_kernel(LossWork p) {
  using Tiles = SharedTiles<T>;
  Work work;
  const int64_t* offsets = p.loss.offsets;
  if (!find_work<T>(work, p.tiles_before, p.loss.num_images, offsets, offsets)) return;
  const int first_row = work.row_begin + warp_index() * T::kRowTiles * 16;
  const float threshold = 2.0f * p.loss.margin - 1.0f;
  const int begin = work.column_begin, count = work.column_end - begin;
  // Column tiles near .. near_end - 1 hold rows of this tile's instances; in hole .. hole_end - 1 no pair is of two.
  const int last_row = (work.row_begin + T::kBlockM < work.row_end ? work.row_begin + T::kBlockM : work.row_end) - 1;
  const int reach_begin = p.begin[work.row_begin] - begin, reach_end = p.end[last_row] - begin;
  const int tiles = (count + T::kBlockN - 1) / T::kBlockN;
  const int near = reach_begin / T::kBlockN, near_end = (reach_end + T::kBlockN - 1) / T::kBlockN;
  const int hole = (reach_begin + T::kBlockN - 1) / T::kBlockN;
  const int hole_end = reach_end == count ? tiles : reach_end / T::kBlockN;
  const bool alone = p.begin[last_row] == p.begin[work.row_begin];
  const int skipped = alone && hole_end > hole ? hole_end - hole : 0;
  const auto tile_of = [&](int number) { return number < hole ? number : number + skipped; };

  RowOperand<T> x;
  RowSums<T> grad = {};
  RowNumbers<T> hinge = {}, all_hinge = {};
  int32_t own[T::kRowTiles][2];
  load_numbers<T, int32_t>(own, p.instance, first_row, work.row_end, -1);
  const int64_t slot = work.split * p.loss.num_points;
  bool first_move = true;
  RowNumbers<T> one;
  set_numbers<T>(one, 1.0f);
  const auto move = [&] {
    move_numbers<T>(all_hinge, hinge, one);
    if (p.loss.grad == nullptr) return;
    move_sums<T>(p.partial_grad + slot * T::kDim, grad, first_move, one, first_row, work.row_end, work.slice);
    first_move = false;
  };
  const auto copy = [&](int number) {
    const int first = begin + tile_of(number) * T::kBlockN;
    copy_partners<T>(number, 0, p.points, first, work.column_end);
    copy_partners<T>(number, 1, p.weighted, first, work.column_end);
    // no weight outside
    copy_numbers<T::kBlockN, T::kThreads>(Tiles::template numbers<float>(number, 0), p.loss.weight, first,
                                          work.column_end);
    copy_numbers<T::kBlockN, T::kThreads>(Tiles::template numbers<int32_t>(number, 1), p.instance, first,
                                          work.column_end);
  };
  const auto visit = [&](int number) {
    const TileOperand x_j = Tiles::column_operand(number, 0), weighted = Tiles::column_operand(number, 1);
    const float* weight = Tiles::template numbers<float>(number, 0) + lane_index() % 4 * 2;
    const int32_t* instance = Tiles::template numbers<int32_t>(number, 1) + lane_index() % 4 * 2;
    const int tile = tile_of(number);
    const bool mixed = near <= tile && tile < near_end;
#pragma unroll(T::kUnroll)
    for (int column = 0; column < T::kBlockN; column += 16) {
      Chunk active[T::kRowTiles] = {};  // cosines, then 1 where a pair is active
      rows_times_rows<T>(active, x, x_j, column);
      if (mixed) clear_same_instance<T>(active, own, instance + column, threshold);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float weight_j = shared_load(weight + column + k / 2 * 8 + k % 2);
#pragma unroll
        for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float& value = active[m][k / 2][2 * half + k % 2];
            const float excess = hinge_excess(value, threshold);
            hinge[m][half] = fmaf(excess, weight_j, hinge[m][half]);
            value = hinge_slope(excess, 1.0f);
          }
        }
      }
      if (p.loss.grad == nullptr) continue;
      WeightFragments mask[T::kRowTiles];
      load_weights<T, true>(mask, active);
      if (any_weight<T>(mask)) weights_times_rows<T, true>(grad, mask, weighted, column, work.slice);
    }
    if ((number + 1) % T::kSumTiles == 0) move();
  };
  copy_own_rows<T>(0, p.points, work);
  walk_tiles<T>(share_of_split(tiles - skipped, work), copy, [&] { x.load(Tiles::row_operand(0)); }, visit);
  move();
#pragma unroll
  for (int m = 0; m < T::kRowTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) all_hinge[m][half] = quad_sum(all_hinge[m][half]);
  if (work.slice == 0) store_numbers<T>(p.partial_hinge + slot, all_hinge, first_row, work.row_end);
}

// Rows of a group, [kRowThreads rows], that one thread block of the next two kernels sums.
struct RowGroup {
  int image;
  int64_t begin, end;
};
RPE_DEVICE bool find_group(RowGroup& group, const LossWork& p, int number) {
  if (number >= p.edges_before[p.loss.num_images]) return false;
  group.image = find_segment(p.edges_before, p.loss.num_images, number);
  group.begin = p.loss.offsets[group.image] + int64_t(number - p.edges_before[group.image]) * kRowThreads;
  const int64_t end = p.loss.offsets[group.image + 1];
  group.end = group.begin + kRowThreads < end ? group.begin + kRowThreads : end;
  return true;
}

// v_q and W_q of (4) over rows first .. last - 1, in a fixed order; every thread of the thread block takes part.
template <int kDim>
RPE_DEVICE void sum_rows(const LossWork& p, int64_t first, int64_t last, float* centre, float* mass) {
  using Lanes = RowLanes<kDim>;
  Lanes lanes(0);
  float total[8] = {}, total_mass = 0.0f, value[8];
  for (int64_t begin = first; begin < last; begin += Lanes::kRows) {
    lanes.row = begin + thread_index() / Lanes::kLanes;
    lanes.inside = lanes.row < last;
    const float weight = lanes.inside ? p.loss.weight[lanes.row] : 0.0f;
    lanes.load(value, p.loss.points, p.loss.dim);
#pragma unroll
    for (int k = 0; k < 8; ++k) total[k] += weight * value[k];
    total_mass += weight;
  }
  float* sums = reinterpret_cast<float*>(shared_memory());  // [Lanes::kRows, kDim] and [Lanes::kRows]
  float* masses = sums + kRowThreads * 8;
  barrier();  // whoever read the sums of a call before is done
#pragma unroll
  for (int k = 0; k < 8; ++k) shared_store(sums + thread_index() * 8 + k, total[k]);
  if (lanes.lane == 0) shared_store(masses + thread_index() / Lanes::kLanes, total_mass);
  barrier();
  for (int feature = thread_index(); feature <= kDim; feature += kRowThreads) {
    float sum = 0.0f;
    for (int row = 0; row < Lanes::kRows; ++row)
      sum += shared_load(feature < kDim ? sums + row * kDim + feature : masses + row);
    (feature < kDim ? centre[feature] : *mass) = sum;
  }
}
template <int kDim>
constexpr size_t kSumBytes = (kRowThreads * 8 + RowLanes<kDim>::kRows) * sizeof(float);

// The part of (4) that each group of rows holds of the instance it begins in the middle of.
// Computes `edge_sum`, `edge_mass`; zero where the group begins an instance.
// Owns     one group of rows.  Tiles: none.  Types: float32.  Bits: fixed order.
template <int kDim>
RPE_KERNEL(kRowThreads, 1)
edge_sums_kernel(LossWork p) {
  const int number = int(block_index().x);
  RowGroup group;
  if (!find_group(group, p, number)) return;
  const bool begun = p.begin[group.begin] < group.begin;
  const int64_t end = p.end[group.begin] < group.end ? p.end[group.begin] : group.end;
  sum_rows<kDim>(p, group.begin, begun ? end : group.begin, p.edge_sum + int64_t(number) * kDim, p.edge_mass + number);
}

// v_q and W_q of (4): of the instances that begin in a group of rows, with what later groups hold of the last.
// Owns     one group of rows.  Tiles: none.  Types: float32.  Bits: rows, then groups, in a fixed order.
template <int kDim>
RPE_KERNEL(kRowThreads, 1)
instance_sums_kernel(LossWork p) {
  const int number = int(block_index().x);
  RowGroup group;
  if (!find_group(group, p, number)) return;
  int64_t row = p.begin[group.begin] < group.begin ? p.end[group.begin] : group.begin;
  while (row < group.end) {
    const int64_t end = p.end[row];
    float* centre = p.centre + row * kDim;
    sum_rows<kDim>(p, row, end < group.end ? end : group.end, centre, p.mass + row);
    if (end > group.end) {
      const int last = number + int((end - 1 - group.begin) / kRowThreads);
      // each thread adds to what it wrote itself
      for (int feature = thread_index(); feature <= kDim; feature += kRowThreads) {
        float sum = 0.0f;
        for (int other = number + 1; other <= last; ++other)
          sum += feature < kDim ? p.edge_sum[int64_t(other) * kDim + feature] : p.edge_mass[other];
        (feature < kDim ? centre[feature] : p.mass[row]) += sum;
      }
    }
    row = end;
  }
}

// (2) for each row, and (3).
// Computes w_i (hinge_i + W_q - x_i.v_q) / 2 and w_i (repulsion_i - v_q), q the instance of row i.
// Owns     RowLanes::kRows rows.  Tiles: none.  Types: float32.  Bits: splits are added in order.
template <int kDim>
RPE_KERNEL(kRowThreads, 1)
loss_finish_kernel(LossWork p) {
  const RowLanes<kDim> lanes(p.loss.num_points);
  const int64_t row = lanes.inside ? lanes.row : 0, first = p.begin[row];
  const float weight = p.loss.weight[row];
  const float scale = weight_scale(p, lanes.image(p.loss.offsets, p.loss.num_images));
  float point[8], slope[8] = {}, partial[8], hinge = 0.0f, along = 0.0f;
  for (int split = 0; split < p.splits; ++split) {
    hinge += p.partial_hinge[split * p.loss.num_points + row];
    if (p.loss.grad == nullptr) continue;
    lanes.load_padded(partial, p.partial_grad + split * p.loss.num_points * kDim);
#pragma unroll
    for (int k = 0; k < 8; ++k) slope[k] += partial[k];
  }
  lanes.load(point, p.loss.points, p.loss.dim);
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const float centre = p.centre[first * kDim + lanes.lane * 8 + k];
    along = fmaf(point[k], centre, along);
    slope[k] = weight * (slope[k] / scale - centre);
  }
  if (p.loss.grad != nullptr) lanes.store(p.loss.grad, slope, p.loss.dim);
  along = lanes.sum(along);
  if (lanes.inside && lanes.lane == 0) p.row_loss[row] = double(weight) * (double(hinge) + p.mass[first] - along);
}

template <int kDim, bool kSplit>
size_t run_loss(const PairwiseLoss& loss, void* workspace, Stream stream) {
  using T = Traits<Walk::kHinge, kDim, kSplit>;
  Workspace space(workspace);
  const int64_t count = loss.num_points;
  const unsigned tiles = largest_tile_count(count, loss.num_images, T::kBlockM);
  const unsigned groups = largest_tile_count(count, loss.num_images, kRowThreads);
  LossWork p{};
  p.loss = loss;
  p.splits = int(split_count(tiles, count, loss.num_images, T::kBlockN, loss.processors));
  const OperandSpace<kDim, kSplit> points(space, count), weighted(space, count);
  p.points = points.operand();
  p.weighted = weighted.operand();
  p.weighted_high = weighted.high;
  p.weighted_low = weighted.low;
  p.largest_weight = space.take<uint32_t>(loss.num_images);
  p.instance = space.take<int32_t>(count);
  p.begin = space.take<int32_t>(count);
  p.end = space.take<int32_t>(count);
  p.tiles_before = space.take<int32_t>(loss.num_images + 1);
  p.edges_before = space.take<int32_t>(loss.num_images + 1);
  p.partial_hinge = space.take<float>(p.splits * count);
  p.partial_grad = space.take<float>(loss.grad == nullptr ? 0 : p.splits * count * kDim);
  p.edge_sum = space.take<float>(int64_t(groups) * kDim);
  p.edge_mass = space.take<float>(groups);
  p.centre = space.take<float>(count * kDim);
  p.mass = space.take<float>(count);
  p.row_loss = space.take<double>(count);
  const SumSpace loss_sum(space, count, loss.num_images);
  if (workspace == nullptr) return space.bytes();

  const Grid rows = RowLanes<kDim>::grid(count);
  fill_zero(p.largest_weight, loss.num_images * sizeof(uint32_t), stream);
  count_tiles(p.tiles_before, loss.offsets, loss.num_images, T::kBlockM, stream);
  count_tiles(p.edges_before, loss.offsets, loss.num_images, kRowThreads, stream);
  launch(instance_rows_kernel, RowLanes<8>::grid(count), kRowThreads, 0, stream, p);
  points.prepare(loss.points, count, loss.dim, stream);
  launch(weighted_rows_kernel<kDim>, rows, kRowThreads, 0, stream, p);
  // without a gradient one slice has all that is asked for
  launch(hinge_kernel<T>, {tiles, unsigned(p.splits), unsigned(loss.grad == nullptr ? 1 : T::kSlices)}, T::kThreads,
         T::kSharedBytes, stream, p);
  launch(edge_sums_kernel<kDim>, {groups, 1, 1}, kRowThreads, kSumBytes<kDim>, stream, p);
  launch(instance_sums_kernel<kDim>, {groups, 1, 1}, kRowThreads, kSumBytes<kDim>, stream, p);
  launch(loss_finish_kernel<kDim>, rows, kRowThreads, 0, stream, p);
  loss_sum.run(p.row_loss, loss.offsets, count, 0.5, loss.loss, stream);
  return space.bytes();
}

}  // namespace

size_t pairwise_loss(const PairwiseLoss& loss, void* workspace, void* stream) {
  return with_widths(loss.dim, loss.half, [&](auto width, auto split) {
    return run_loss<decltype(width)::value, decltype(split)::value != 0>(loss, workspace, Stream(stream));
  });
}

void pairwise_loss_resources(std::vector<KernelResources>& all) {
  with_every_width([&](auto width, auto split) {
    using Hinge = Traits<Walk::kHinge, decltype(width)::value, decltype(split)::value != 0>;
    append_resources<Hinge>(all, "hinge_kernel", hinge_kernel<Hinge>);
  });
}

}  // namespace cuda
}  // namespace rpe
