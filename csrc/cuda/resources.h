// What the kernels over pairs take of a multiprocessor of the current GPU, for `kernel_resources()`.
#pragma once

#include <string>
#include <vector>

namespace rpe {
namespace cuda {

struct KernelResources {
  std::string name;
  int dim;    // padded width of rows
  bool half;  // float16 operands, else float32-grade
  int threads, registers, shared_bytes, spilled_bytes, blocks_per_processor;
};

// One for each file of kernels; they append to `all`.
void mean_shift_forward_resources(std::vector<KernelResources>& all);
void blurring_backward_resources(std::vector<KernelResources>& all);
void two_sided_backward_resources(std::vector<KernelResources>& all);
void pairwise_loss_resources(std::vector<KernelResources>& all);
void connected_components_resources(std::vector<KernelResources>& all);

}  // namespace cuda
}  // namespace rpe
