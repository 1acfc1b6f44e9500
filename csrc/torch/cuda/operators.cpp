// The CUDA operators: schemas, tensors to csrc/cuda. rpe_ops/backends/cuda calls them through torch.ops.rpe_ops_cuda;
// autograd and fake tensors live above, in rpe_ops/autograd.
#include "../../cuda/connected_components.h"
#include "../../cuda/mean_shift.h"
#include "../../cuda/pairwise_loss.h"
#include "../../cuda/traits.cuh"
#include "check.h"
#include "device.h"

#include <torch/library.h>

#include <optional>
#include <tuple>

namespace rpe {
namespace cuda {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

// Nothing, or the three tensors of a TileList (rpe_ops/backends/tile_list.py).
TileList tile_list(at::TensorList tensors, int num_images, const char* name) {
  if (tensors.empty()) return {};
  TORCH_CHECK(tensors.size() == 3, name, " must be empty or (before, begin, columns), got ", tensors.size(),
              " tensors");
  check_tensor(tensors[0], at::kInt, {num_images + 1}, name);
  for (size_t which : {1, 2}) check_tensor(tensors[which], at::kInt, {tensors[which].numel()}, name);
  return {tensors[0].const_data_ptr<int32_t>(), tensors[1].const_data_ptr<int32_t>(),
          tensors[2].const_data_ptr<int32_t>()};
}

MeanShift mean_shift_inputs(const at::Tensor& points, const OptionalTensor& sources, const OptionalTensor& log_weight,
                            const at::Tensor& kappa, const at::Tensor& eta, const at::Tensor& point_offsets,
                            const at::Tensor& source_offsets, bool half, const DeviceScope& device) {
  check_rows(points, kLargestDim, "points");
  const at::Tensor& partners = sources ? *sources : points;
  check_tensor(partners, at::kFloat, {partners.size(0), points.size(1)}, "sources");
  if (log_weight) check_tensor(*log_weight, at::kFloat, {partners.size(0)}, "log_weight");
  check_tensor(kappa, at::kFloat, {}, "kappa");
  check_tensor(eta, at::kFloat, {}, "eta");
  MeanShift problem{};
  problem.points = points.const_data_ptr<float>();
  problem.blurring = !sources;
  problem.sources = partners.const_data_ptr<float>();
  problem.log_weight = log_weight ? log_weight->const_data_ptr<float>() : nullptr;
  problem.kappa = kappa.const_data_ptr<float>();
  problem.eta = eta.const_data_ptr<float>();
  problem.num_images = check_offsets(point_offsets, "point_offsets");
  TORCH_CHECK(check_offsets(source_offsets, "source_offsets") == problem.num_images,
              "point_offsets and source_offsets must name the same number of images");
  problem.point_offsets = point_offsets.const_data_ptr<int64_t>();
  problem.source_offsets = source_offsets.const_data_ptr<int64_t>();
  problem.num_points = points.size(0);
  problem.num_sources = partners.size(0);
  problem.dim = points.size(1);
  problem.half = half;
  problem.processors = device.processors();
  return problem;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> mean_shift_forward_op(
    const at::Tensor& points, const OptionalTensor& sources, const OptionalTensor& log_weight, const at::Tensor& kappa,
    const at::Tensor& eta, const at::Tensor& point_offsets, const at::Tensor& source_offsets, at::TensorList seen,
    bool half) {
  const DeviceScope device(points);
  MeanShift problem =
      mean_shift_inputs(points, sources, log_weight, kappa, eta, point_offsets, source_offsets, half, device);
  problem.seen = tile_list(seen, problem.num_images, "seen");
  at::Tensor moved = at::empty(points.sizes(), points.options());
  at::Tensor mean = at::empty(points.sizes(), points.options());
  at::Tensor log_density = at::empty({points.size(0)}, points.options());
  problem.moved = moved.mutable_data_ptr<float>();
  problem.mean = mean.mutable_data_ptr<float>();
  problem.log_density = log_density.mutable_data_ptr<float>();
  if (problem.num_points > 0) run_with_workspace(mean_shift_forward, problem, points, device);
  return {moved, mean, log_density};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> mean_shift_backward_op(
    const at::Tensor& grad_moved, const at::Tensor& points, const OptionalTensor& sources,
    const OptionalTensor& log_weight, const at::Tensor& kappa, const at::Tensor& eta, const at::Tensor& point_offsets,
    const at::Tensor& source_offsets, at::TensorList seen, at::TensorList seeing, const at::Tensor& mean,
    const at::Tensor& log_density, bool with_grad_weight, bool half) {
  const DeviceScope device(points);
  MeanShift problem =
      mean_shift_inputs(points, sources, log_weight, kappa, eta, point_offsets, source_offsets, half, device);
  problem.seen = tile_list(seen, problem.num_images, "seen");
  problem.seeing = tile_list(seeing, problem.num_images, "seeing");
  check_tensor(grad_moved, at::kFloat, points.sizes(), "grad_moved");
  check_tensor(mean, at::kFloat, points.sizes(), "mean");
  check_tensor(log_density, at::kFloat, {points.size(0)}, "log_density");
  at::Tensor grad_points = at::empty(points.sizes(), points.options());
  at::Tensor grad_sources = at::empty({sources ? problem.num_sources : 0, points.size(1)}, points.options());
  at::Tensor grad_weight = at::empty({with_grad_weight ? problem.num_sources : 0}, points.options());
  at::Tensor grad_kappa = at::empty({}, points.options()), grad_eta = at::empty({}, points.options());
  problem.mean = const_cast<float*>(mean.const_data_ptr<float>());
  problem.log_density = const_cast<float*>(log_density.const_data_ptr<float>());
  problem.grad_moved = grad_moved.const_data_ptr<float>();
  problem.grad_points = grad_points.mutable_data_ptr<float>();
  problem.grad_sources = sources ? grad_sources.mutable_data_ptr<float>() : nullptr;
  problem.grad_weight = with_grad_weight ? grad_weight.mutable_data_ptr<float>() : nullptr;
  problem.grad_kappa = grad_kappa.mutable_data_ptr<float>();
  problem.grad_eta = grad_eta.mutable_data_ptr<float>();
  run_with_workspace(mean_shift_backward, problem, points, device);
  return {grad_points, grad_sources, grad_weight, grad_kappa, grad_eta};
}

std::tuple<at::Tensor, at::Tensor> pairwise_loss_op(const at::Tensor& points, const at::Tensor& instance,
                                                    const at::Tensor& weight, const at::Tensor& offsets, double margin,
                                                    bool with_gradient, bool half) {
  const DeviceScope device(points);
  check_rows(points, kLargestDim, "points");
  check_tensor(instance, at::kLong, {points.size(0)}, "instance");
  check_tensor(weight, at::kFloat, {points.size(0)}, "weight");
  PairwiseLoss problem{};
  problem.num_images = check_offsets(offsets, "offsets");
  at::Tensor loss = at::empty({problem.num_images}, points.options());
  at::Tensor grad = at::empty({with_gradient ? points.size(0) : 0, points.size(1)}, points.options());
  problem.points = points.const_data_ptr<float>();
  problem.instance = instance.const_data_ptr<int64_t>();
  problem.weight = weight.const_data_ptr<float>();
  problem.offsets = offsets.const_data_ptr<int64_t>();
  problem.num_points = points.size(0);
  problem.dim = points.size(1);
  problem.margin = float(margin);
  problem.half = half;
  problem.processors = device.processors();
  problem.loss = loss.mutable_data_ptr<float>();
  problem.grad = with_gradient ? grad.mutable_data_ptr<float>() : nullptr;
  run_with_workspace(pairwise_loss, problem, points, device);
  return {loss, grad};
}

at::Tensor foreign_root_op(const at::Tensor& points, const at::Tensor& root, const at::Tensor& unfinished,
                           const at::Tensor& offsets, double threshold) {
  const DeviceScope device(points);
  check_rows(points, kLargestDim, "points");
  check_tensor(root, at::kInt, {points.size(0)}, "root");
  check_tensor(unfinished, at::kInt, {}, "unfinished");
  at::Tensor neighbour = at::empty({points.size(0)}, root.options());
  ForeignRoot problem{};
  problem.points = points.const_data_ptr<float>();
  problem.root = root.const_data_ptr<int32_t>();
  problem.unfinished = unfinished.const_data_ptr<int32_t>();
  problem.num_images = check_offsets(offsets, "offsets");
  problem.offsets = offsets.const_data_ptr<int64_t>();
  problem.num_points = points.size(0);
  problem.dim = points.size(1);
  problem.threshold = float(threshold);
  problem.processors = device.processors();
  problem.neighbour = neighbour.mutable_data_ptr<int32_t>();
  if (problem.num_points > 0) run_with_workspace(foreign_root, problem, points, device);
  return neighbour;
}

}  // namespace
}  // namespace cuda
}  // namespace rpe

TORCH_LIBRARY(rpe_ops_cuda, library) {
  library.def(
      "mean_shift_forward(Tensor points, Tensor? sources, Tensor? log_weight, Tensor kappa, Tensor eta, "
      "Tensor point_offsets, Tensor source_offsets, Tensor[] seen, bool half) -> (Tensor, Tensor, Tensor)");
  library.def(
      "mean_shift_backward(Tensor grad_moved, Tensor points, Tensor? sources, Tensor? log_weight, Tensor kappa, "
      "Tensor eta, Tensor point_offsets, Tensor source_offsets, Tensor[] seen, Tensor[] seeing, Tensor mean, "
      "Tensor log_density, bool with_grad_weight, bool half) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  library.def(
      "pairwise_loss_forward(Tensor points, Tensor instance, Tensor weight, Tensor offsets, float margin, "
      "bool with_gradient, bool half) -> (Tensor, Tensor)");
  library.def("foreign_root(Tensor points, Tensor root, Tensor unfinished, Tensor offsets, float threshold) -> Tensor");
}

TORCH_LIBRARY_IMPL(rpe_ops_cuda, RPE_DISPATCH_KEY, library) {
  library.impl("mean_shift_forward", &rpe::cuda::mean_shift_forward_op);
  library.impl("mean_shift_backward", &rpe::cuda::mean_shift_backward_op);
  library.impl("pairwise_loss_forward", &rpe::cuda::pairwise_loss_op);
  library.impl("foreign_root", &rpe::cuda::foreign_root_op);
}
