// One round of connected components on a GPU: what csrc/torch/cuda hands to the kernel. Plain pointers to device memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rpe {
namespace cuda {

struct ForeignRoot {
  const float* points;        // [points, dim]
  const int32_t* root;        // [points]
  const int32_t* unfinished;  // one number: 0 when there is nothing left to do
  const int64_t* offsets;     // [images + 1]
  int64_t num_points, dim;
  int num_images;
  float threshold;     // 2 threshold - 1, on the cosine
  int processors;      // multiprocessors of the GPU
  int32_t* neighbour;  // [points]: the smallest root of another component among the neighbours, num_points without one
};

// Queues the round on a stream. Returns the bytes of workspace it needs, and with none does only that.
size_t foreign_root(const ForeignRoot& problem, void* workspace, void* stream);

}  // namespace cuda
}  // namespace rpe
