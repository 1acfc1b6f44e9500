// One mean-shift step on a GPU: operands, the walk over pairs, and what is left to do per row.
// Formula numbers are those of rpe_ops/backends/reference/mean_shift.py.
#include "../math/sphere_step.h"
#include "kernel_values.cuh"
#include "mean_shift.h"
#include "rows.cuh"

namespace rpe {
namespace cuda {
namespace {

struct ForwardWork {
  MeanShift step;
  Operand points, sources;
  const float *squared, *excess;  // [sources], of lengths
  const ImageLengths* image;      // [images]
  const int32_t* tiles_before;    // [images + 1]
  // [splits, points, kDim] and three of [splits, points]
  float *partial_sum, *partial_nearest, *partial_level, *partial_density;
  int splits;
};

// (1) and the sums of (2) over one split of the columns.
// Computes sum_j 2^a_ij y_j and sum_j 2^a_ij, times 2^kScaleExponent, with
//          a_ij = log2(e) (kappa (x_i.y_j - nearest_i) + b_j) - level_i.
// Owns     kBlockM rows of one image; thread block (row tile, split, slice of the features).
// Tiles    x [kBlockM, kDim] as fragments, y [kBlockN, kDim] in kStages stages of shared memory.
// Types    loads float16 (kSplit: in two parts), accumulates and stores float32.
// Bits     one writer per row, split and slice, columns in order: deterministic.
// kFixed (blurring without masses): nearest_i = |x_i| max_j |x_j|, or (|x_i|^2 + max_j |x_j|^2) / 2 where cosines are
// corrected for the rounding of lengths, bounds that its own cosine nearly reaches, and level_i = 0 need no running maximum. Otherwise the largest exponent so far is kept; sums are rescaled when it grows.
template <class T, bool kFixed>
RPE_KERNEL(T::kThreads, kFixed ? T::kBlocksWanted : 1)
mean_shift_forward_kernel(ForwardWork p) {
  using Tiles = SharedTiles<T>;
  Work work;
  if (!find_work<T>(work, p.tiles_before, p.step.num_images, p.step.point_offsets, p.step.source_offsets, p.step.seen))
    return;
  const int first_row = work.row_begin + warp_index() * T::kRowTiles * 16;
  const float kappa = log2_concentration(p.step.kappa);
  RowOperand<T> x;
  RowSums<T> total = {};
  WeightSums<T> density = {};
  RowNumbers<T> all_density = {};
  RunningReference<T> reference, moved_reference;  // of `total`, and of what was moved to memory
  reference.clear();
  moved_reference.clear();
  RowNumbers<T> excess = {};
  bool corrected = true;
  if constexpr (kFixed) {
    corrected = lengths_matter(p.image[work.image], kappa);
    const float largest = largest_squared(p.image[work.image], corrected);
#pragma unroll
    for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first_row + m * 16 + lane_index() / 4 + 8 * half;
        const float squared = row < work.row_end ? p.squared[row] : 0.0f;
        excess[m][half] = row < work.row_end ? p.excess[row] : 0.0f;
        reference.nearest[m][half] =
            corrected ? 0.5f * (squared - 2.0f * excess[m][half] + largest) : sqrtf(squared * largest);
        reference.level[m][half] = 0.0f;
      }
    }
  }
  const int64_t slot = work.split * p.step.num_points;
  bool first_move = true;
  const auto move = [&] {
    RowNumbers<T> factor;
    if constexpr (kFixed) {
      set_numbers<T>(factor, 1.0f);
    } else {
      reference.factors(factor, moved_reference, kappa);
      moved_reference = reference;
    }
    move_sums<T>(p.partial_sum + slot * T::kDim, total, first_move, factor, first_row, work.row_end, work.slice);
#pragma unroll
    for (int k = 0; k < 2 * T::kRowTiles; ++k)
      all_density[k / 2][k % 2] = fmaf(all_density[k / 2][k % 2], factor[k / 2][k % 2], density[k / 2][k % 2 * 2]);
#pragma unroll
    for (int k = 0; k < 4 * T::kRowTiles; ++k) density[k / 4][k % 4] = 0.0f;
    first_move = false;
  };
  const auto copy = [&](int number) {
    const int first = tile_column<T>(work, number);
    copy_partners<T>(number, 0, p.sources, first, work.column_end);
    if (corrected)
      copy_numbers<T::kBlockN, T::kThreads>(Tiles::template numbers<float>(number, 0), p.excess, first,
                                            work.column_end);
    if (!kFixed && p.step.log_weight != nullptr)
      copy_numbers<T::kBlockN, T::kThreads>(Tiles::template numbers<float>(number, 1), p.step.log_weight, first,
                                            work.column_end);
  };
  const auto visit = [&](int number) {
    const TileOperand y = Tiles::column_operand(number, 0);
    const int columns = columns_from<T>(work, number);
    const bool partial = columns < T::kBlockN;
#pragma unroll(T::kUnroll)
    for (int column = 0; column < T::kBlockN; column += 16) {
      Chunk cosine[T::kRowTiles] = {}, weight[T::kRowTiles];
      rows_times_rows<T>(cosine, x, y, column);
      if constexpr (kFixed) {
        if (corrected)
          correct_lengths<T>(cosine, excess, Tiles::template numbers<float>(number, 0) + column + lane_index() % 4 * 2);
#pragma unroll
        for (int m = 0; m < T::kRowTiles; ++m) {
          kernel_values<T>(weight[m], cosine[m], reference.nearest[m], kappa);
          if (partial) clear_outside(weight[m], columns - column);
        }
      } else {
        float bias[2][2];
        chunk_bias(bias, p.step.log_weight == nullptr ? nullptr : Tiles::template numbers<float>(number, 1),
                   Tiles::template numbers<float>(number, 0), kappa, column, columns - column);
        reference.values(weight, cosine, bias, kappa, [&](int m, int half, float factor) {
          density[m][2 * half] *= factor;
          density[m][2 * half + 1] *= factor;
          scale_row(total[m], half, factor);
        });
#pragma unroll
        for (int m = 0; m < T::kRowTiles; ++m)
#pragma unroll
          for (int k = 0; k < 8; ++k) weight[m][k / 4][k % 4] *= kScale;
      }
      WeightFragments fragments[T::kRowTiles];
      load_weights<T>(fragments, weight);
      add_weights<T>(density, fragments);
      weights_times_rows<T>(total, fragments, y, column, work.slice);
    }
    if ((number + 1) % T::kSumTiles == 0) move();
  };
  copy_own_rows<T>(0, p.points, work);
  walk_tiles<T>(tiles_of_split<T>(work), copy, [&] { x.load(Tiles::row_operand(0)); }, visit);
  move();
  if (work.slice != 0) return;
  store_numbers<T>(p.partial_density + slot, all_density, first_row, work.row_end);
  store_numbers<T>(p.partial_nearest + slot, reference.nearest, first_row, work.row_end);
  store_numbers<T>(p.partial_level + slot, reference.level, first_row, work.row_end);
}

// L of (1), M and Z of (2) from the partial sums of all splits.
// Computes L_i = kappa (nearest_i - 1) + ln 2 (level_i + log2 sum), M_i, Z_i, for the largest of all references.
// Owns     RowLanes::kRows rows.  Tiles: none.  Types: float32.  Bits: splits are added in order.
template <int kDim>
RPE_KERNEL(kRowThreads, 1)
mean_shift_finish_kernel(ForwardWork p) {
  const int64_t num_points = p.step.num_points;
  const RowLanes<kDim> lanes(num_points);
  const int64_t row = lanes.inside ? lanes.row : 0;
  const float kappa = log2_concentration(p.step.kappa), eta = *p.step.eta;
  CommonReference common;
  common.find(p.partial_nearest, p.partial_level, row, num_points, p.splits, kappa);
  float point[8], mean[8] = {}, moved[8], density = 0.0f;
  lanes.load(point, p.step.points, p.step.dim);
  for (int split = 0; split < p.splits; ++split) {
    const int64_t place = split * num_points + row;
    const float share = common.share(p.partial_nearest[place], p.partial_level[place], kappa);
    float sum[8];
    lanes.load_padded(sum, p.partial_sum + split * num_points * kDim);
    density += share * p.partial_density[place];
#pragma unroll
    for (int k = 0; k < 8; ++k) mean[k] += share * sum[k];
  }
  const bool empty = density < kLeastDensity;  // an image without mass: its rows stay
#pragma unroll
  for (int k = 0; k < 8; ++k) mean[k] = empty ? point[k] : mean[k] / density;
  sphere_step(point, mean, eta, int64_t(8), moved, [&](float value) { return lanes.sum(value); });
  lanes.store(p.step.mean, mean, p.step.dim);
  lanes.store(p.step.moved, moved, p.step.dim);
  if (!lanes.inside || lanes.lane != 0) return;
  const float level = (common.nearest - 1.0f) * kappa + (common.level + log2f(density) - kScaleExponent);
  p.step.log_density[row] = empty ? -INFINITY : level / kLog2E;
}

template <int kDim, bool kSplit, bool kListed>
size_t run_forward(const MeanShift& step, void* workspace, Stream stream) {
  using T = Traits<Walk::kForward, kDim, kSplit, kListed>;
  Workspace space(workspace);
  const bool blurring = step.blurring, fixed = blurring && step.log_weight == nullptr;
  const unsigned tiles = largest_tile_count(step.num_points, step.num_images, T::kBlockM);
  ForwardWork p{};
  p.step = step;
  p.splits = int(split_count(tiles, step.num_sources, step.num_images, T::kBlockN, step.processors));
  const OperandSpace<kDim, kSplit> points(space, step.num_points), sources(space, blurring ? 0 : step.num_sources);
  p.points = points.operand();
  p.sources = blurring ? p.points : sources.operand();
  const LengthSpace lengths(space, step.num_sources, step.num_images);
  int32_t* tiles_before = space.take<int32_t>(step.num_images + 1);
  p.squared = lengths.squared;
  p.excess = lengths.excess;
  p.image = lengths.image;
  p.tiles_before = tiles_before;
  p.partial_sum = space.take<float>(p.splits * step.num_points * kDim);
  p.partial_nearest = space.take<float>(p.splits * step.num_points);
  p.partial_level = space.take<float>(p.splits * step.num_points);
  p.partial_density = space.take<float>(p.splits * step.num_points);
  if (workspace == nullptr) return space.bytes();

  count_tiles(tiles_before, step.point_offsets, step.num_images, T::kBlockM, stream);
  prepare_both(step, points, sources, lengths, stream);
  launch(fixed ? mean_shift_forward_kernel<T, true> : mean_shift_forward_kernel<T, false>,
         {tiles, unsigned(p.splits), T::kSlices}, T::kThreads, T::kSharedBytes, stream, p);
  launch(mean_shift_finish_kernel<kDim>, RowLanes<kDim>::grid(step.num_points), kRowThreads, 0, stream, p);
  return space.bytes();
}

}  // namespace

size_t mean_shift_forward(const MeanShift& step, void* workspace, void* stream) {
  return with_widths(step.dim, step.half, [&](auto width, auto split) {
    constexpr int kDim = decltype(width)::value;
    constexpr bool kSplit = decltype(split)::value != 0;
    const auto run = step.seen.columns ? run_forward<kDim, kSplit, true> : run_forward<kDim, kSplit, false>;
    return run(step, workspace, Stream(stream));
  });
}

void mean_shift_forward_resources(std::vector<KernelResources>& all) {
  with_every_width([&](auto width, auto split) {
    using Forward = Traits<Walk::kForward, decltype(width)::value, decltype(split)::value != 0>;
    using Listed = Traits<Walk::kForward, decltype(width)::value, decltype(split)::value != 0, true>;
    append_resources<Forward>(all, "mean_shift_forward_kernel, fixed shift", mean_shift_forward_kernel<Forward, true>);
    append_resources<Forward>(all, "mean_shift_forward_kernel, running maximum",
                              mean_shift_forward_kernel<Forward, false>);
    append_resources<Listed>(all, "mean_shift_forward_kernel, listed, fixed shift",
                             mean_shift_forward_kernel<Listed, true>);
    append_resources<Listed>(all, "mean_shift_forward_kernel, listed, running maximum",
                             mean_shift_forward_kernel<Listed, false>);
  });
}

}  // namespace cuda
}  // namespace rpe
