// Pairwise margin-hinge loss and its gradient on a GPU: what csrc/torch/cuda hands to the kernels. Plain pointers to device
// memory; formula numbers in the kernels are those of rpe_ops/backends/reference/pairwise_loss.py.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rpe {
namespace cuda {

struct PairwiseLoss {
  const float* points;      // [points, dim], rows of one instance of one image side by side
  const int64_t* instance;  // [points], rising
  const float* weight;      // [points]
  const int64_t* offsets;   // [images + 1]
  int64_t num_points, dim;
  int num_images;
  float margin;    // on the similarity
  bool half;       // products of float16 copies; else float32-grade
  int processors;  // multiprocessors of the GPU
  float* loss;     // [images]
  float* grad;     // [points, dim] or null
};

// Queues everything on a stream. Returns the bytes of workspace it needs, and with none does only that.
size_t pairwise_loss(const PairwiseLoss& problem, void* workspace, void* stream);

}  // namespace cuda
}  // namespace rpe
