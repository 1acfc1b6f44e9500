// Backward of one mean-shift step for seeds and masses: one walk over pairs for the points that move, one for their
// sources. Formula numbers are those of rpe_ops/backends/reference/mean_shift.py.
#include "mean_shift_backward.cuh"

namespace rpe {
namespace cuda {
namespace {

struct TwoSidedWork {
  MeanShift step;
  Operand points, sources, slopes;
  const float* excess;                        // [sources], of lengths
  float* slope_shift;                         // [points]
  const uint32_t* longest;                    // [images]
  const int32_t *point_tiles, *source_tiles;  // [images + 1]
  int row_splits, column_splits;
  // Row side: [row_splits, points, kDim] and four of [row_splits, points].
  float *row_sum, *row_slope, *row_nearest, *row_level, *row_density;
  float *nearest, *level;  // [points], common to the splits; the level is infinite where there is no mass
  double* grad_kappa;      // [points]
  // Column side: two of [column_splits, sources, kDim] and one of [column_splits, sources].
  float *column_slopes, *column_points, *column_mass;
};

// R of (5) over one split of the sources, before the division by the density.
// Computes sum_j S_ij y_j, sum_j S_ij and sum_j P_ij with S_ij = P_ij (h_i.y_j - e_i). P is relative to the largest
//          exponent so far, as in the forward: kappa magnifies rounding, and dividing by a sum of the same terms takes it
//          out.
// Owns     kBlockM moving points of one image; thread block (row tile, split, slice).
// Tiles    x, h [kBlockM, kDim] as fragments, y [kBlockN, kDim] in kStages stages of shared memory.
// Types    loads float16 (kSplit: in two parts), accumulates and stores float32.
// Bits     one writer per row, split and slice, columns in order: deterministic.
template <class T>
RPE_KERNEL(T::kThreads, T::kBlocksWanted)
row_side_kernel(TwoSidedWork p) {
  using Tiles = SharedTiles<T>;
  Work work;
  if (!find_work<T>(work, p.point_tiles, p.step.num_images, p.step.point_offsets, p.step.source_offsets, p.step.seen))
    return;
  const int first_row = work.row_begin + warp_index() * T::kRowTiles * 16;
  const float kappa = log2_concentration(p.step.kappa);
  RowOperand<T> x, h;
  RowNumbers<T> shift, slope_sum = {}, density = {}, all_slopes = {}, all_density = {};
  load_numbers<T>(shift, p.slope_shift, first_row, work.row_end, 0.0f);
  RowSums<T> row_sum = {};
  RunningReference<T> reference, moved_reference;  // of `row_sum`, and of what was moved to memory
  reference.clear();
  moved_reference.clear();
  const int64_t slot = work.split * p.step.num_points;
  bool first_move = true;
  const auto move = [&] {
    RowNumbers<T> factor;
    reference.factors(factor, moved_reference, kappa);
    moved_reference = reference;
    move_sums<T>(p.row_sum + slot * T::kDim, row_sum, first_move, factor, first_row, work.row_end, work.slice);
    move_numbers<T>(all_slopes, slope_sum, factor);
    move_numbers<T>(all_density, density, factor);
    first_move = false;
  };
  const auto copy = [&](int number) {
    const int first = tile_column<T>(work, number);
    copy_partners<T>(number, 0, p.sources, first, work.column_end);
    copy_numbers<T::kBlockN, T::kThreads>(Tiles::template numbers<float>(number, 0), p.excess, first, work.column_end);
    if (p.step.log_weight != nullptr)
      copy_numbers<T::kBlockN, T::kThreads>(Tiles::template numbers<float>(number, 1), p.step.log_weight, first,
                                            work.column_end);
  };
  const auto visit = [&](int number) {
    const TileOperand y = Tiles::column_operand(number, 0);
    const int columns = columns_from<T>(work, number);
#pragma unroll(T::kUnroll)
    for (int column = 0; column < T::kBlockN; column += 16) {
      Chunk cosine[T::kRowTiles] = {}, slope[T::kRowTiles] = {}, probability[T::kRowTiles];
      const RowProduct<T> products[2] = {{cosine, x}, {slope, h}};
      rows_times_rows<T, false>(products, y, column);
      float bias[2][2];
      chunk_bias(bias, p.step.log_weight == nullptr ? nullptr : Tiles::template numbers<float>(number, 1),
                 Tiles::template numbers<float>(number, 0), kappa, column, columns - column);
      reference.values(probability, cosine, bias, kappa, [&](int m, int half, float factor) {
        density[m][half] *= factor;
        slope_sum[m][half] *= factor;
        scale_row(row_sum[m], half, factor);
      });
#pragma unroll
      for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          const int half = k % 4 / 2;
          float& value = slope[m][k / 4][k % 4];
          value = probability[m][k / 4][k % 4] * (value - shift[m][half]);
          density[m][half] += probability[m][k / 4][k % 4];
          slope_sum[m][half] += value;
        }
      }
      weights_times_rows<T>(row_sum, slope, y, column, work.slice);
    }
    if ((number + 1) % T::kSumTiles == 0) move();
  };
  copy_own_rows<T>(0, p.points, work);
  copy_own_rows<T>(1, p.slopes, work);
  const auto begin = [&] {
    x.load(Tiles::row_operand(0));
    h.load(Tiles::row_operand(1));
  };
  walk_tiles<T>(tiles_of_split<T>(work), copy, begin, visit);
  move();
#pragma unroll
  for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      all_density[m][half] = quad_sum(all_density[m][half]);
      all_slopes[m][half] = quad_sum(all_slopes[m][half]);
    }
  }
  if (work.slice != 0) return;
  store_numbers<T>(p.row_slope + slot, all_slopes, first_row, work.row_end);
  store_numbers<T>(p.row_nearest + slot, reference.nearest, first_row, work.row_end);
  store_numbers<T>(p.row_level + slot, reference.level, first_row, work.row_end);
  store_numbers<T>(p.row_density + slot, all_density, first_row, work.row_end);
}

// R of (5), the row's part of (7), and the reference that makes exponents those of P.
// Computes kappa R_i into grad_points, x_i.R_i, (nearest_i, level_i); e_i becomes exactly sum_j P_ij h_i.y_j.
// Owns     RowLanes::kRows points.  Tiles: none.  Types: float32, float64 for (7).  Bits: splits are added in order.
template <int kDim>
RPE_KERNEL(kRowThreads, 1)
row_finish_kernel(TwoSidedWork p) {
  const int64_t num_points = p.step.num_points;
  const RowLanes<kDim> lanes(num_points);
  const int64_t row = lanes.inside ? lanes.row : 0;
  const int image = lanes.image(p.step.point_offsets, p.step.num_images);
  const float kappa = log2_concentration(p.step.kappa);
  CommonReference common;
  common.find(p.row_nearest, p.row_level, row, num_points, p.row_splits, kappa);
  float density = 0.0f, rest = 0.0f, sum[8] = {}, point[8], mean[8], grad[8];
  for (int split = 0; split < p.row_splits; ++split) {
    const int64_t place = split * num_points + row;
    const float share = common.share(p.row_nearest[place], p.row_level[place], kappa);
    float partial[8];
    lanes.load_padded(partial, p.row_sum + split * num_points * kDim);
    density += share * p.row_density[place];
    rest += share * p.row_slope[place];
#pragma unroll
    for (int k = 0; k < 8; ++k) sum[k] += share * partial[k];
  }
  const bool empty = density == 0.0f;
  const float inverse = empty ? 0.0f : 1.0f / density;
  rest *= inverse;  // 0 but for the rounding of e, which is taken out again
  lanes.load(point, p.step.points, p.step.dim);
  lanes.load(mean, p.step.mean, p.step.dim);
  lanes.load(grad, p.step.grad_points, p.step.dim);
  const float scale = slope_scale(p.longest, image, 1.0f);
  double along = 0;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const float value = (sum[k] * inverse - rest * mean[k]) / scale;
    along += double(point[k]) * double(value);
    if (!empty) grad[k] += *p.step.kappa * value;
  }
  lanes.store(p.step.grad_points, grad, p.step.dim);
  along = lanes.sum(along);
  if (!lanes.inside || lanes.lane != 0) return;
  p.grad_kappa[row] = along;
  p.nearest[row] = common.nearest;
  p.level[row] = empty ? INFINITY : common.level + log2f(density);
  p.slope_shift[row] += rest;
}

// C of (6) and the sums of (8) over one split of the moving points.
// Computes sum_i P_ij h_i, sum_i S_ij x_i and sum_i S_ij; for sources of mass 0 the last is the derivative in the mass
//          itself, and the first two mean nothing.
// Owns     kBlockM sources j of one image; thread block (source tile, split, slice). Moving points i are its partners.
// Tiles    y [kBlockM, kDim] as fragments, x, h [kBlockN, kDim] in kStages stages of shared memory.
// Types    loads float16 (kSplit: in two parts), accumulates and stores float32.
// Bits     one writer per source, split and slice, partners in order: deterministic.
template <class T>
RPE_KERNEL(T::kThreads, T::kBlocksWanted)
column_side_kernel(TwoSidedWork p) {
  using Tiles = SharedTiles<T>;
  Work work;
  if (!find_work<T>(work, p.source_tiles, p.step.num_images, p.step.source_offsets, p.step.point_offsets,
                    p.step.seeing))
    return;
  const int first_row = work.row_begin + warp_index() * T::kRowTiles * 16;
  const float kappa = log2_concentration(p.step.kappa);
  RowOperand<T> y;
  RowNumbers<T> bias = {}, excess, ceiling, sum_mass = {};
  load_numbers<T>(excess, p.excess, first_row, work.row_end, 0.0f);
  if (p.step.log_weight != nullptr) load_numbers<T>(bias, p.step.log_weight, first_row, work.row_end, 0.0f);
#pragma unroll
  for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // without its mass a source may outweigh all that have one; beyond 2^60 its square would overflow
      const bool massless = bias[m][half] == -INFINITY;
      ceiling[m][half] = massless ? 60.0f : 0.0f;
      bias[m][half] = fmaf(-kappa, excess[m][half], massless ? 0.0f : bias[m][half] * kLog2E);
    }
  }
  RowSums<T> sum_slopes = {}, sum_points = {};
  const int64_t slot = work.split * p.step.num_sources;
  bool first_move = true;
  RowNumbers<T> one;
  set_numbers<T>(one, 1.0f);
  const auto move = [&] {
    move_sums<T>(p.column_slopes + slot * T::kDim, sum_slopes, first_move, one, first_row, work.row_end, work.slice);
    move_sums<T>(p.column_points + slot * T::kDim, sum_points, first_move, one, first_row, work.row_end, work.slice);
    first_move = false;
  };
  const auto copy = [&](int number) {
    const int first = tile_column<T>(work, number);
    copy_partners<T>(number, 0, p.points, first, work.column_end);
    copy_partners<T>(number, 1, p.slopes, first, work.column_end);
    const float* numbers[3] = {p.slope_shift, p.nearest, p.level};
#pragma unroll
    for (int which = 0; which < 3; ++which)
      copy_numbers<T::kBlockN, T::kThreads>(Tiles::template numbers<float>(number, which), numbers[which], first,
                                            work.column_end);
  };
  const auto visit = [&](int number) {
    const TileOperand x = Tiles::column_operand(number, 0), h = Tiles::column_operand(number, 1);
    const int columns = columns_from<T>(work, number);
    const bool partial = columns < T::kBlockN;
#pragma unroll(T::kUnroll)
    for (int column = 0; column < T::kBlockN; column += 16) {
      Chunk exponent[T::kRowTiles] = {}, slope[T::kRowTiles] = {}, probability[T::kRowTiles];
      rows_times_rows<T, true>(exponent, y, x, column);
      rows_times_rows<T, true>(slope, y, h, column);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int place = column + k / 2 * 8 + lane_index() % 4 * 2 + k % 2;
        const float shift = shared_load(Tiles::template numbers<float>(number, 0) + place);
        const float nearest = shared_load(Tiles::template numbers<float>(number, 1) + place);
        const float level = shared_load(Tiles::template numbers<float>(number, 2) + place);
#pragma unroll
        for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int entry = 2 * half + k % 2;
            const float own = fmaf(exponent[m][k / 2][entry] - nearest, kappa, bias[m][half]) - level;
            probability[m][k / 2][entry] = exp2_approximate(fminf(own, ceiling[m][half]));
            slope[m][k / 2][entry] -= shift;
          }
        }
      }
#pragma unroll
      for (int m = 0; m < T::kRowTiles; ++m) {
        if (partial) clear_outside(probability[m], columns - column);
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          slope[m][k / 4][k % 4] *= probability[m][k / 4][k % 4];
          sum_mass[m][k % 4 / 2] += slope[m][k / 4][k % 4];
          probability[m][k / 4][k % 4] *= kScale;
        }
      }
      weights_times_rows<T>(sum_points, slope, x, column, work.slice);
      weights_times_rows<T>(sum_slopes, probability, h, column, work.slice);
    }
    if ((number + 1) % T::kSumTiles == 0) move();
  };
  copy_own_rows<T>(0, p.sources, work);
  walk_tiles<T>(tiles_of_split<T>(work), copy, [&] { y.load(Tiles::row_operand(0)); }, visit);
#pragma unroll
  for (int m = 0; m < T::kRowTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) sum_mass[m][half] = quad_sum(sum_mass[m][half]);
  move();
  if (work.slice == 0) store_numbers<T>(p.column_mass + slot, sum_mass, first_row, work.row_end);
}

// C of (6) and the derivative in the masses, (8) divided by them.
// Owns     RowLanes::kRows sources.  Tiles: none.  Types: float32.  Bits: splits are added in order.
template <int kDim>
RPE_KERNEL(kRowThreads, 1)
column_finish_kernel(TwoSidedWork p) {
  const int64_t num_sources = p.step.num_sources;
  const RowLanes<kDim> lanes(num_sources);
  const int64_t row = lanes.inside ? lanes.row : 0;
  const float scale = slope_scale(p.longest, lanes.image(p.step.source_offsets, p.step.num_images), 1.0f);
  const float kappa = *p.step.kappa;
  float slopes[8] = {}, points[8] = {}, partial[8], mass = 0.0f;
  for (int split = 0; split < p.column_splits; ++split) {
    const int64_t slot = split * num_sources;
    lanes.load_padded(partial, p.column_slopes + slot * kDim);
#pragma unroll
    for (int k = 0; k < 8; ++k) slopes[k] += partial[k];
    lanes.load_padded(partial, p.column_points + slot * kDim);
#pragma unroll
    for (int k = 0; k < 8; ++k) points[k] += partial[k];
    mass += p.column_mass[slot + row];
  }
  const float log_weight = p.step.log_weight == nullptr ? 0.0f : p.step.log_weight[row];
  const bool massless = log_weight == -INFINITY;
  float* result = p.step.blurring ? p.step.grad_points : p.step.grad_sources;
  float grad[8] = {};
  if (p.step.blurring) lanes.load(grad, result, p.step.dim);
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    if (!massless) grad[k] += (slopes[k] / kScale + kappa * points[k]) / scale;
  }
  lanes.store(result, grad, p.step.dim);
  if (p.step.grad_weight != nullptr && lanes.inside && lanes.lane == 0)
    p.step.grad_weight[row] = mass == 0.0f ? 0.0f : mass / scale * (massless ? 1.0f : expf(-log_weight));
}

template <int kDim, bool kSplit, bool kListed>
size_t run_two_sided(const MeanShift& step, void* workspace, Stream stream) {
  using Rows = Traits<Walk::kRowSide, kDim, kSplit, kListed>;
  using Columns = Traits<Walk::kColumnSide, kDim, kSplit, kListed>;
  Workspace space(workspace);
  const bool blurring = step.blurring;
  const unsigned row_tiles = largest_tile_count(step.num_points, step.num_images, Rows::kBlockM);
  const unsigned column_tiles = largest_tile_count(step.num_sources, step.num_images, Columns::kBlockM);
  SlopeSpace<kDim, kSplit, false> slopes(space, step);
  const OperandSpace<kDim, kSplit> points(space, step.num_points), sources(space, blurring ? 0 : step.num_sources);
  const LengthSpace lengths(space, step.num_sources, step.num_images);
  int32_t* point_tiles = space.take<int32_t>(step.num_images + 1);
  int32_t* source_tiles = space.take<int32_t>(step.num_images + 1);
  TwoSidedWork p{};
  p.step = step;
  p.points = points.operand();
  p.sources = blurring ? p.points : sources.operand();
  p.slopes = slopes.operand.operand();
  p.slope_shift = slopes.rows.shift;
  p.longest = slopes.rows.longest;
  p.excess = lengths.excess;
  p.point_tiles = point_tiles;
  p.source_tiles = source_tiles;
  p.row_splits = int(split_count(row_tiles, step.num_sources, step.num_images, Rows::kBlockN, step.processors));
  p.column_splits = int(split_count(column_tiles, step.num_points, step.num_images, Columns::kBlockN, step.processors));
  p.row_sum = space.take<float>(p.row_splits * step.num_points * kDim);
  p.row_slope = space.take<float>(p.row_splits * step.num_points);
  p.row_nearest = space.take<float>(p.row_splits * step.num_points);
  p.row_level = space.take<float>(p.row_splits * step.num_points);
  p.row_density = space.take<float>(p.row_splits * step.num_points);
  p.nearest = space.take<float>(step.num_points);
  p.level = space.take<float>(step.num_points);
  p.grad_kappa = space.take<double>(step.num_points);
  p.column_slopes = space.take<float>(p.column_splits * step.num_sources * kDim);
  p.column_points = space.take<float>(p.column_splits * step.num_sources * kDim);
  p.column_mass = space.take<float>(p.column_splits * step.num_sources);
  if (workspace == nullptr) return space.bytes();

  count_tiles(point_tiles, step.point_offsets, step.num_images, Rows::kBlockM, stream);
  count_tiles(source_tiles, step.source_offsets, step.num_images, Columns::kBlockM, stream);
  prepare_both(step, points, sources, lengths, stream);
  slopes.run(stream);
  launch(row_side_kernel<Rows>, {row_tiles, unsigned(p.row_splits), Rows::kSlices}, Rows::kThreads, Rows::kSharedBytes,
         stream, p);
  launch(row_finish_kernel<kDim>, RowLanes<kDim>::grid(step.num_points), kRowThreads, 0, stream, p);
  launch(column_side_kernel<Columns>, {column_tiles, unsigned(p.column_splits), Columns::kSlices}, Columns::kThreads,
         Columns::kSharedBytes, stream, p);
  launch(column_finish_kernel<kDim>, RowLanes<kDim>::grid(step.num_sources), kRowThreads, 0, stream, p);
  slopes.sum.run(p.grad_kappa, nullptr, step.num_points, 1.0, step.grad_kappa, stream);
  return space.bytes();
}

}  // namespace

size_t two_sided_backward(const MeanShift& step, void* workspace, void* stream) {
  return with_widths(step.dim, step.half, [&](auto width, auto split) {
    constexpr int kDim = decltype(width)::value;
    constexpr bool kSplit = decltype(split)::value != 0;
    const auto run = step.seen.columns ? run_two_sided<kDim, kSplit, true> : run_two_sided<kDim, kSplit, false>;
    return run(step, workspace, Stream(stream));
  });
}

size_t mean_shift_backward(const MeanShift& step, void* workspace, void* stream) {
  const bool one_sided = step.blurring && step.log_weight == nullptr;
  return one_sided ? blurring_backward(step, workspace, stream) : two_sided_backward(step, workspace, stream);
}

void two_sided_backward_resources(std::vector<KernelResources>& all) {
  with_every_width([&](auto width, auto split) {
    using RowSide = Traits<Walk::kRowSide, decltype(width)::value, decltype(split)::value != 0>;
    using ColumnSide = Traits<Walk::kColumnSide, decltype(width)::value, decltype(split)::value != 0>;
    using ListedRows = Traits<Walk::kRowSide, decltype(width)::value, decltype(split)::value != 0, true>;
    using ListedColumns = Traits<Walk::kColumnSide, decltype(width)::value, decltype(split)::value != 0, true>;
    append_resources<RowSide>(all, "row_side_kernel", row_side_kernel<RowSide>);
    append_resources<ColumnSide>(all, "column_side_kernel", column_side_kernel<ColumnSide>);
    append_resources<ListedRows>(all, "row_side_kernel, listed", row_side_kernel<ListedRows>);
    append_resources<ListedColumns>(all, "column_side_kernel, listed", column_side_kernel<ListedColumns>);
  });
}

}  // namespace cuda
}  // namespace rpe
