// Schemas of the native operators and their CPU implementations. rpe_ops/backends/native calls them through
// torch.ops.rpe_ops_native; autograd and fake tensors live above, in rpe_ops/autograd.
#include "../launch/select.h"
#include "operators.h"

#include <torch/library.h>

namespace rpe {
namespace {

// Debugging aid: forces a SIMD variant ("auto" undoes it) and returns the one now in use.
std::string set_simd(std::string variant) {
  TORCH_CHECK(simd_select(variant), "set_simd: this CPU or this build cannot run variant '", variant, "'");
  return simd_current();
}

}  // namespace
}  // namespace rpe

TORCH_LIBRARY(rpe_ops_native, library) {
  library.def(
      "pairwise_loss_forward(Tensor points, Tensor instance, Tensor weight, Tensor offsets, float margin, "
      "bool with_gradient, bool half) -> (Tensor, Tensor)");
  library.def(
      "mean_shift_forward(Tensor points, Tensor? sources, Tensor? log_weight, Tensor kappa, Tensor eta, "
      "Tensor point_offsets, Tensor source_offsets, bool half, float tol) -> (Tensor, Tensor, Tensor)");
  library.def(
      "mean_shift_backward(Tensor grad_moved, Tensor points, Tensor? sources, Tensor? log_weight, Tensor kappa, Tensor "
      "eta, Tensor point_offsets, Tensor source_offsets, Tensor mean, Tensor log_density, bool with_grad_weight, "
      "bool half, float tol) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  library.def("connected_components(Tensor points, Tensor offsets, float threshold) -> Tensor");
  library.def("farthest_points(Tensor points, Tensor offsets, int num_seeds, Tensor first, float covered) -> Tensor");
  library.def("nearest_rows(Tensor points, Tensor rows, Tensor point_offsets, Tensor row_offsets) -> Tensor");
  library.def("set_simd(str variant) -> str", &rpe::set_simd);
}

TORCH_LIBRARY_IMPL(rpe_ops_native, CPU, library) {
  library.impl("pairwise_loss_forward", &rpe::pairwise_loss_forward);
  library.impl("mean_shift_forward", &rpe::mean_shift_forward);
  library.impl("mean_shift_backward", &rpe::mean_shift_backward);
  library.impl("connected_components", &rpe::connected_components);
  library.impl("farthest_points", &rpe::farthest_points);
  library.impl("nearest_rows", &rpe::nearest_rows);
}
