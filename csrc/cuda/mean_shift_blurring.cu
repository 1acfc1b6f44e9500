// Backward of one mean-shift step for points that are their own sources, without masses: one walk over pairs serves both
// sides of each. Formula numbers are those of rpe_ops/backends/reference/mean_shift.py.
#include "mean_shift_backward.cuh"

namespace rpe {
namespace cuda {
namespace {

struct BlurringWork {
  MeanShift step;
  Operand points, slopes;
  const float *squared, *excess, *slope_shift;  // [points]; the first two of lengths
  const ImageLengths* image;                    // [images]
  const uint32_t* longest;                      // [images]
  const int32_t *tiles_before, *zero_rows;      // [images + 1], [images]
  float *partial_points, *partial_slopes;       // [splits, points, kDim]
  float* mean_slope;                            // [images, kDim]
  double* grad_kappa;                           // [points]
  int splits;
};

// (5) and (6) together. With K_ij = exp(kappa (x_i.x_j - largest)), P_ij = K_ij f_i, u_i = f_i h_i, v_i = f_i e_i and
// `largest` the image's largest squared length, cosines corrected
// for the rounding of lengths where that matters:
// Computes sum_j T_ij x_j and sum_j K_ij u_j with T_ij = S_ij + S_ji = K_ij (u_i.x_j + x_i.u_j - v_i - v_j), both times
//          2^kScaleExponent.
// Owns     kBlockM rows of one image; thread block (row tile, split, slice). One exponential per pair serves both sides.
// Tiles    x_i, u_i [kBlockM, kDim] as fragments, x_j, u_j [kBlockN, kDim] in kStages stages of shared memory.
// Types    loads float16 (kSplit: in two parts), accumulates and stores float32.
// Bits     one writer per row, split and slice, columns in order: deterministic.
template <class T>
RPE_KERNEL(T::kThreads, T::kBlocksWanted)
blurring_backward_kernel(BlurringWork p) {
  using Tiles = SharedTiles<T>;
  Work work;
  const int64_t* offsets = p.step.point_offsets;
  if (!find_work<T>(work, p.tiles_before, p.step.num_images, offsets, offsets, p.step.seen)) return;
  const int first_row = work.row_begin + warp_index() * T::kRowTiles * 16;
  const float kappa = log2_concentration(p.step.kappa);
  const bool corrected = lengths_matter(p.image[work.image], kappa);
  const float top = largest_squared(p.image[work.image], corrected);
  const float largest[2] = {top, top};
  RowOperand<T> x, u;
  RowNumbers<T> shift, excess;
  load_numbers<T>(shift, p.slope_shift, first_row, work.row_end, 0.0f);
  load_numbers<T>(excess, p.excess, first_row, work.row_end, 0.0f);
  RowSums<T> sum_points = {}, sum_slopes = {};
  const int64_t slot = work.split * p.step.num_points * T::kDim;
  bool first_move = true;
  RowNumbers<T> one;
  set_numbers<T>(one, 1.0f);
  const auto move = [&] {
    move_sums<T>(p.partial_points + slot, sum_points, first_move, one, first_row, work.row_end, work.slice);
    move_sums<T>(p.partial_slopes + slot, sum_slopes, first_move, one, first_row, work.row_end, work.slice);
    first_move = false;
  };
  const auto copy = [&](int number) {
    const int first = tile_column<T>(work, number);
    copy_partners<T>(number, 0, p.points, first, work.column_end);
    copy_partners<T>(number, 1, p.slopes, first, work.column_end);
    copy_numbers<T::kBlockN, T::kThreads>(Tiles::template numbers<float>(number, 0), p.slope_shift, first,
                                          work.column_end);
    if (corrected)
      copy_numbers<T::kBlockN, T::kThreads>(Tiles::template numbers<float>(number, 1), p.excess, first,
                                            work.column_end);
  };
  const auto visit = [&](int number) {
    const TileOperand x_j = Tiles::column_operand(number, 0), u_j = Tiles::column_operand(number, 1);
    const float* shift_j = Tiles::template numbers<float>(number, 0) + lane_index() % 4 * 2;
    const int columns = columns_from<T>(work, number);
    const bool partial = columns < T::kBlockN;
#pragma unroll(T::kUnroll)
    for (int column = 0; column < T::kBlockN; column += 16) {
      Chunk cosine[T::kRowTiles] = {}, slope[T::kRowTiles] = {}, kernel[T::kRowTiles];
      float v[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) v[k] = shared_load(shift_j + column + k / 2 * 8 + k % 2);
      // float32-grade: near sums before their difference, whose rounding is what kappa multiplies
      if constexpr (!T::kSplit) {
#pragma unroll
        for (int m = 0; m < T::kRowTiles; ++m)
#pragma unroll
          for (int k = 0; k < 8; ++k) slope[m][k / 4][k % 4] = -shift[m][k % 4 / 2] - v[k / 4 * 2 + k % 2];
      }
      const RowProduct<T> products[2] = {{cosine, x}, {slope, u}};
      rows_times_rows<T, false>(products, x_j, column);
      rows_times_rows<T>(slope, x, u_j, column);
      if (corrected)
        correct_lengths<T>(cosine, excess, Tiles::template numbers<float>(number, 1) + column + lane_index() % 4 * 2);
#pragma unroll
      for (int m = 0; m < T::kRowTiles; ++m) {
        kernel_values<T>(kernel[m], cosine[m], largest, kappa);
        if (partial) clear_outside(kernel[m], columns - column);
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          float& value = slope[m][k / 4][k % 4];
          if constexpr (T::kSplit) value -= shift[m][k % 4 / 2] + v[k / 4 * 2 + k % 2];
          value *= kernel[m][k / 4][k % 4];
        }
      }
      weights_times_rows<T>(sum_slopes, kernel, u_j, column, work.slice);
      weights_times_rows<T>(sum_points, slope, x_j, column, work.slice);
    }
    if ((number + 1) % T::kSumTiles == 0) move();
  };
  copy_own_rows<T>(0, p.points, work);
  copy_own_rows<T>(1, p.slopes, work);
  const auto begin = [&] {
    x.load(Tiles::row_operand(0));
    u.load(Tiles::row_operand(1));
  };
  walk_tiles<T>(tiles_of_split<T>(work), copy, begin, visit);
  move();
}

// The mean of h over an image's points, counting zero rows alone: what they pull at every point, since their P_ij = 1/N.
// Computes `mean_slope`.  Owns: one image.  Tiles: none.  Types: float32.
// Bits     groups of lanes take rows in a fixed pattern and are added in order.
template <int kDim>
RPE_KERNEL(kRowThreads, 1)
zero_rows_kernel(BlurringWork p) {
  using Lanes = RowLanes<kDim>;
  const int image = int(block_index().x);
  const bool any = p.zero_rows[image] != 0;
  const int64_t begin = p.step.point_offsets[image], end = p.step.point_offsets[image + 1];
  const float eta = *p.step.eta;
  Lanes lanes(0);
  float total[8] = {};
  for (int64_t first = begin; any && first < end; first += Lanes::kRows) {
    lanes.row = first + thread_index() / Lanes::kLanes;
    lanes.inside = lanes.row < end && p.squared[lanes.row] == 0.0f && p.step.log_density[lanes.row] != -INFINITY;
    float grad_moved[8], point[8], mean[8], g[8];
    lanes.load(grad_moved, p.step.grad_moved, p.step.dim);
    lanes.load(point, p.step.points, p.step.dim);
    lanes.load(mean, p.step.mean, p.step.dim);
    sphere_step_gradient(grad_moved, point, mean, eta, int64_t(8), g, [&](auto value) { return lanes.sum(value); });
#pragma unroll
    for (int k = 0; k < 8; ++k) total[k] += eta * g[k];
  }
  float* sums = reinterpret_cast<float*>(shared_memory());  // [Lanes::kRows, kDim]
#pragma unroll
  for (int k = 0; k < 8; ++k) shared_store(sums + thread_index() * 8 + k, total[k]);
  barrier();
  for (int feature = thread_index(); feature < kDim; feature += kRowThreads) {
    float sum = 0.0f;
    for (int row = 0; row < Lanes::kRows; ++row) sum += shared_load(sums + row * kDim + feature);
    p.mean_slope[int64_t(image) * kDim + feature] = end > begin ? sum / float(end - begin) : 0.0f;
  }
}

// (5) and (6) from the partial sums of all splits, and the row's part of (7): sum_i x_i.R_i, since each sum_j S_ij is 0.
// Owns     RowLanes::kRows points.  Tiles: none.  Types: float32, float64 for (7).  Bits: splits are added in order.
template <int kDim>
RPE_KERNEL(kRowThreads, 1)
blurring_finish_kernel(BlurringWork p) {
  const RowLanes<kDim> lanes(p.step.num_points);
  const int64_t row = lanes.inside ? lanes.row : 0;
  const int image = lanes.image(p.step.point_offsets, p.step.num_images);
  float pair_sum[8] = {}, slope_sum[8] = {}, point[8], grad[8], partial[8];
  for (int split = 0; split < p.splits; ++split) {
    const int64_t slot = split * p.step.num_points * kDim;
    lanes.load_padded(partial, p.partial_points + slot);
#pragma unroll
    for (int k = 0; k < 8; ++k) pair_sum[k] += partial[k];
    lanes.load_padded(partial, p.partial_slopes + slot);
#pragma unroll
    for (int k = 0; k < 8; ++k) slope_sum[k] += partial[k];
  }
  lanes.load(point, p.step.points, p.step.dim);
  lanes.load(grad, p.step.grad_points, p.step.dim);
  const float scale = slope_scale(p.longest, image, kScale) * kScale, kappa = *p.step.kappa;
  const bool staying = p.step.log_density[row] == -INFINITY;
  double along = 0;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const float mean_slope = p.mean_slope[int64_t(image) * kDim + lanes.lane * 8 + k];
    pair_sum[k] /= scale;
    along += double(point[k]) * double(pair_sum[k]);
    if (!staying) grad[k] += kappa * pair_sum[k] + (slope_sum[k] / scale + mean_slope);
  }
  lanes.store(p.step.grad_points, grad, p.step.dim);
  along = lanes.sum(along);
  if (lanes.inside && lanes.lane == 0) p.grad_kappa[row] = along;
}

template <int kDim, bool kSplit, bool kListed>
size_t run_blurring(const MeanShift& step, void* workspace, Stream stream) {
  using T = Traits<Walk::kBackward, kDim, kSplit, kListed>;
  Workspace space(workspace);
  const unsigned tiles = largest_tile_count(step.num_points, step.num_images, T::kBlockM);
  SlopeSpace<kDim, kSplit, true> slopes(space, step);
  const OperandSpace<kDim, kSplit> points(space, step.num_points);
  const LengthSpace lengths(space, step.num_points, step.num_images);
  int32_t* tiles_before = space.take<int32_t>(step.num_images + 1);
  slopes.rows.squared = lengths.squared;
  slopes.rows.image = lengths.image;
  BlurringWork p{};
  p.step = step;
  p.splits = int(split_count(tiles, step.num_points, step.num_images, T::kBlockN, step.processors));
  p.points = points.operand();
  p.slopes = slopes.operand.operand();
  p.squared = lengths.squared;
  p.excess = lengths.excess;
  p.slope_shift = slopes.rows.shift;
  p.image = lengths.image;
  p.longest = slopes.rows.longest;
  p.tiles_before = tiles_before;
  p.zero_rows = slopes.rows.zero_rows;
  p.partial_points = space.take<float>(p.splits * step.num_points * kDim);
  p.partial_slopes = space.take<float>(p.splits * step.num_points * kDim);
  p.mean_slope = space.take<float>(int64_t(step.num_images) * kDim);
  p.grad_kappa = space.take<double>(step.num_points);
  if (workspace == nullptr) return space.bytes();

  const Grid rows = RowLanes<kDim>::grid(step.num_points);
  count_tiles(tiles_before, step.point_offsets, step.num_images, T::kBlockM, stream);
  points.prepare(step.points, step.num_points, step.dim, stream, &lengths, step.point_offsets, step.num_images);
  slopes.run(stream);
  launch(blurring_backward_kernel<T>, {tiles, unsigned(p.splits), T::kSlices}, T::kThreads, T::kSharedBytes, stream, p);
  launch(zero_rows_kernel<kDim>, {unsigned(step.num_images), 1, 1}, kRowThreads, kRowThreads * 8 * sizeof(float),
         stream, p);
  launch(blurring_finish_kernel<kDim>, rows, kRowThreads, 0, stream, p);
  slopes.sum.run(p.grad_kappa, nullptr, step.num_points, 0.5, step.grad_kappa, stream);
  return space.bytes();
}

}  // namespace

size_t blurring_backward(const MeanShift& step, void* workspace, void* stream) {
  return with_widths(step.dim, step.half, [&](auto width, auto split) {
    constexpr int kDim = decltype(width)::value;
    constexpr bool kSplit = decltype(split)::value != 0;
    const auto run = step.seen.columns ? run_blurring<kDim, kSplit, true> : run_blurring<kDim, kSplit, false>;
    return run(step, workspace, Stream(stream));
  });
}

void blurring_backward_resources(std::vector<KernelResources>& all) {
  with_every_width([&](auto width, auto split) {
    using Backward = Traits<Walk::kBackward, decltype(width)::value, decltype(split)::value != 0>;
    using Listed = Traits<Walk::kBackward, decltype(width)::value, decltype(split)::value != 0, true>;
    append_resources<Backward>(all, "blurring_backward_kernel", blurring_backward_kernel<Backward>);
    append_resources<Listed>(all, "blurring_backward_kernel, listed", blurring_backward_kernel<Listed>);
  });
}

}  // namespace cuda
}  // namespace rpe
