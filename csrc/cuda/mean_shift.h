// One mean-shift step, forward and backward, on a GPU: what csrc/torch/cuda hands to the kernels. Plain pointers, all to
// device memory; formula numbers in the kernels are those of rpe_ops/backends/reference/mean_shift.py.
#pragma once

#include "tile_list.h"

#include <cstddef>
#include <cstdint>

namespace rpe {
namespace cuda {

struct MeanShift {
  const float* points;      // [points, dim]
  const float* sources;     // [sources, dim]; the points themselves when blurring
  bool blurring;            // points are their own sources
  const float* log_weight;  // [sources] or null: every mass is 1
  const float *kappa, *eta;
  const int64_t* point_offsets;   // [images + 1]
  const int64_t* source_offsets;  // [images + 1]; equal to point_offsets when blurring
  int64_t num_points, num_sources, dim;
  int num_images;
  bool half;       // products of float16 copies; else float32-grade
  int processors;  // multiprocessors of the GPU
  // What points see of the sources, and sources of the points; the latter is for backwards with seeds or masses.
  TileList seen, seeing;

  // Forward outputs, backward inputs.
  float *moved, *mean, *log_density;
  const float* grad_moved;

  // Backward outputs.
  float* grad_points;
  float* grad_sources;  // null when blurring
  float* grad_weight;   // [sources], in the mass itself; or null
  float *grad_kappa, *grad_eta;
};

// Queue one step on a stream. Each returns the bytes of workspace it needs, and with none does only that.
size_t mean_shift_forward(const MeanShift& problem, void* workspace, void* stream);
size_t mean_shift_backward(const MeanShift& problem, void* workspace, void* stream);

}  // namespace cuda
}  // namespace rpe
