// What both routes of the mean-shift backward share: the work per row before pairs are visited.
// Formula numbers are those of rpe_ops/backends/reference/mean_shift.py.
#pragma once

#include "../math/sphere_step.h"
#include "kernel_values.cuh"
#include "mean_shift.h"
#include "rows.cuh"

namespace rpe {
namespace cuda {

// Rows h are scaled to lengths up to this. A slope is at most four times as long, and float16 ends at 65,504.
constexpr float kLongestSlope = 4096.0f;

struct SlopeRows {
  MeanShift step;
  float* slopes;       // [points, kDim], f_i h_i
  double* grad_eta;    // [points]
  uint32_t* longest;   // [images], bits of the longest slope row
  int32_t* zero_rows;  // [images], how many points are zero
  // Blurring alone, else null.
  const float* squared;       // [points], of lengths
  const ImageLengths* image;  // [images]
  // What scale_slopes_kernel makes of them.
  Half *high, *low;
  float* shift;  // [points], the scaled rows times M
};

// f_i = 1 / sum_j K_ij, with K relative to the image's largest squared length; 0 for rows without mass and for zero rows,
// whose P_ij = 1/N comes from too small a K to divide by.
RPE_DEVICE float inverse_density(const SlopeRows& p, int64_t row, int image) {
  if (p.step.log_density[row] == -INFINITY) return 0.0f;
  if (p.squared == nullptr) return 1.0f;
  if (p.squared[row] == 0.0f) return 0.0f;
  const float kappa = log2_concentration(p.step.kappa);
  const float largest = largest_squared(p.image[image], lengths_matter(p.image[image], kappa));
  return exp2f((largest - 1.0f) * kappa - p.step.log_density[row] * kLog2E);
}

// (3), the row's own part of (5), and the rows of slopes.
// Computes g_i, h_i, f_i h_i and its length, (1 - eta) g_i into grad_points, g_i.(M_i - x_i).
// Owns     RowLanes::kRows points.  Tiles: none.  Types: float32.  Bits: one writer, integer atomics.
template <int kDim>
RPE_KERNEL(kRowThreads, 1)
slope_rows_kernel(SlopeRows p) {
  const RowLanes<kDim> lanes(p.step.num_points);
  const int64_t row = lanes.inside ? lanes.row : 0;
  const int image = lanes.image(p.step.point_offsets, p.step.num_images);
  const float eta = *p.step.eta;
  const bool staying = p.step.log_density[row] == -INFINITY;  // Y_i = x_i whatever eta is
  float grad_moved[8], point[8], mean[8], g[8], own[8], slope[8], largest = 0.0f;
  lanes.load(grad_moved, p.step.grad_moved, p.step.dim);
  lanes.load(point, p.step.points, p.step.dim);
  lanes.load(mean, p.step.mean, p.step.dim);
  const double grad_eta =
      sphere_step_gradient(grad_moved, point, mean, eta, int64_t(8), g, [&](auto value) { return lanes.sum(value); });
  const float factor = inverse_density(p, row, image) * eta;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    own[k] = staying ? g[k] : (1.0f - eta) * g[k];
    slope[k] = factor == 0.0f ? 0.0f : factor * g[k];
    largest = fmaxf(largest, fabsf(slope[k]));
  }
  lanes.store(p.step.grad_points, own, p.step.dim);
  lanes.store_padded(p.slopes, slope);
#pragma unroll
  for (int mask = 1; mask < RowLanes<kDim>::kLanes; mask *= 2) largest = fmaxf(largest, shuffle_xor(largest, mask));
  // in units of the largest component: squares of small gradients would vanish
  float squared = 0.0f;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const float share = largest > 0.0f ? slope[k] / largest : 0.0f;
    squared += share * share;
  }
  lanes.image_maximum(p.longest, image, largest * sqrtf(lanes.sum(squared)));
  if (!lanes.inside || lanes.lane != 0) return;
  p.grad_eta[row] = grad_eta;
  if (p.squared != nullptr && p.squared[row] == 0.0f) atomic_add(p.zero_rows + image, 1);
}

// The power of two that multiplies the slopes of an image; `headroom` is what multiplies them later.
RPE_DEVICE float slope_scale(const uint32_t* longest, int image, float headroom) {
  return power_of_two(bits_float(longest[image]), kLongestSlope / headroom);
}

// Slopes to operands, and their products with M: of the rounded rows, since kappa multiplies what (4) leaves of the
// difference.
// Computes float16 parts of scale u_i, and their product with M_i.
// Owns     RowLanes::kRows points.  Tiles: none.  Types: float32 to float16.  Bits: one writer.
template <int kDim, bool kBlurring>
RPE_KERNEL(kRowThreads, 1)
scale_slopes_kernel(SlopeRows p) {
  const RowLanes<kDim> lanes(p.step.num_points);
  const int image = lanes.image(p.step.point_offsets, p.step.num_images);
  const float scale = slope_scale(p.longest, image, kBlurring ? kScale : 1.0f);
  float value[8], mean[8];
  lanes.load_padded(value, p.slopes);
  lanes.load(mean, p.step.mean, p.step.dim);
#pragma unroll
  for (int k = 0; k < 8; ++k) value[k] *= scale;
  lanes.store_operand(p.high, p.low, value);
  const float shift = lanes.dot(value, mean);
  if (lanes.inside && lanes.lane == 0) p.shift[lanes.row] = shift;
}

// Takes workspace for slope rows, and queues the kernels that fill it.
template <int kDim, bool kSplit, bool kBlurring>
struct SlopeSpace {
  SlopeRows rows{};
  OperandSpace<kDim, kSplit> operand;
  SumSpace sum;  // of numbers of all points, one after the other

  SlopeSpace(Workspace& space, const MeanShift& step)
      : operand(space, step.num_points), sum(space, step.num_points, 1) {
    rows.step = step;
    rows.slopes = space.take<float>(step.num_points * kDim);
    rows.grad_eta = space.take<double>(step.num_points);
    rows.longest = space.take<uint32_t>(step.num_images);
    rows.zero_rows = space.take<int32_t>(step.num_images);
    rows.shift = space.take<float>(step.num_points);
    rows.high = operand.high;
    rows.low = operand.low;
  }
  void run(Stream stream) const {
    const MeanShift& step = rows.step;
    fill_zero(rows.longest, step.num_images * sizeof(uint32_t), stream);
    fill_zero(rows.zero_rows, step.num_images * sizeof(int32_t), stream);
    const Grid grid = RowLanes<kDim>::grid(step.num_points);
    launch(slope_rows_kernel<kDim>, grid, kRowThreads, 0, stream, rows);
    launch(scale_slopes_kernel<kDim, kBlurring>, grid, kRowThreads, 0, stream, rows);
    sum.run(rows.grad_eta, nullptr, step.num_points, 1.0, step.grad_eta, stream);
  }
};

// The routes: points that are their own sources without masses, one walk; everything else, one walk for each side.
size_t blurring_backward(const MeanShift& problem, void* workspace, void* stream);
size_t two_sided_backward(const MeanShift& problem, void* workspace, void* stream);

}  // namespace cuda
}  // namespace rpe
