// Mean shift: tensors to launch/mean_shift.h.
#include "../launch/mean_shift.h"

#include "check.h"
#include "operators.h"
#include "torch_pool.h"

#include <ATen/ops/empty.h>

namespace rpe {

namespace {

double scalar(const at::Tensor& value, const char* name) {
  TORCH_CHECK(value.device().is_cpu() && value.numel() == 1, name, " must hold one number on the CPU");
  if (value.scalar_type() == at::kDouble) return *value.const_data_ptr<double>();
  TORCH_CHECK(value.scalar_type() == at::kFloat, name, " must be float32 or float64, got ", value.scalar_type());
  return double(*value.const_data_ptr<float>());
}

template <class T>
MeanShift<T> inputs(const at::Tensor& points, const std::optional<at::Tensor>& sources,
                    const std::optional<at::Tensor>& log_weight, bool half, double tol) {
  MeanShift<T> problem{};
  problem.half = half;
  problem.tol = tol;
  problem.blurring = !sources;
  problem.points = points.const_data_ptr<T>();
  problem.sources = sources ? sources->const_data_ptr<T>() : problem.points;
  problem.log_weight = log_weight ? log_weight->const_data_ptr<T>() : nullptr;
  problem.dim = points.size(1);
  return problem;
}

void check_problem(const at::Tensor& points, const std::optional<at::Tensor>& sources,
                   const std::optional<at::Tensor>& log_weight, const at::Tensor& point_offsets,
                   const at::Tensor& source_offsets) {
  check_rows(points, "points");
  const at::Tensor& rows = sources ? *sources : points;
  check_like(rows, points.scalar_type(), {rows.size(0), points.size(1)}, "sources");
  if (log_weight) check_like(*log_weight, points.scalar_type(), {rows.size(0)}, "log_weight");
  const int64_t images = check_offsets(point_offsets, points.size(0), "point_offsets");
  TORCH_CHECK(check_offsets(source_offsets, rows.size(0), "source_offsets") == images,
              "point_offsets and source_offsets must name the same number of images");
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor> mean_shift_forward(
    const at::Tensor& points, const std::optional<at::Tensor>& sources, const std::optional<at::Tensor>& log_weight,
    const at::Tensor& kappa, const at::Tensor& eta, const at::Tensor& point_offsets, const at::Tensor& source_offsets,
    bool half, double tol) {
  check_problem(points, sources, log_weight, point_offsets, source_offsets);
  at::Tensor moved = at::empty(points.sizes(), points.options());
  at::Tensor mean = at::empty(points.sizes(), points.options());
  at::Tensor log_density = at::empty({points.size(0)}, points.options());
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    MeanShift<T> problem = inputs<T>(points, sources, log_weight, half, tol);
    problem.moved = moved.mutable_data_ptr<T>();
    problem.mean = mean.mutable_data_ptr<T>();
    problem.log_density = log_density.mutable_data_ptr<T>();
    TorchPool pool;
    run_mean_shift_forward(problem, scalar(kappa, "kappa"), scalar(eta, "eta"), point_offsets.const_data_ptr<int64_t>(),
                           source_offsets.const_data_ptr<int64_t>(), point_offsets.numel() - 1, pool);
  };
  points.scalar_type() == at::kFloat ? run(float{}) : run(double{});
  return {moved, mean, log_density};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> mean_shift_backward(
    const at::Tensor& grad_moved, const at::Tensor& points, const std::optional<at::Tensor>& sources,
    const std::optional<at::Tensor>& log_weight, const at::Tensor& kappa, const at::Tensor& eta,
    const at::Tensor& point_offsets, const at::Tensor& source_offsets, const at::Tensor& mean,
    const at::Tensor& log_density, bool with_grad_weight, bool half, double tol) {
  check_problem(points, sources, log_weight, point_offsets, source_offsets);
  check_like(grad_moved, points.scalar_type(), points.sizes(), "grad_moved");
  check_like(mean, points.scalar_type(), points.sizes(), "mean");
  check_like(log_density, points.scalar_type(), {points.size(0)}, "log_density");
  const int64_t num_sources = sources ? sources->size(0) : points.size(0);
  at::Tensor grad_points = at::empty(points.sizes(), points.options());
  at::Tensor grad_sources = at::empty({sources ? num_sources : 0, points.size(1)}, points.options());
  at::Tensor grad_log_weight = at::empty({with_grad_weight ? num_sources : 0}, points.options());
  at::Tensor grad_kappa = at::empty({}, points.options()), grad_eta = at::empty({}, points.options());
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    MeanShift<T> problem = inputs<T>(points, sources, log_weight, half, tol);
    problem.grad_moved = grad_moved.const_data_ptr<T>();
    problem.saved_mean = mean.const_data_ptr<T>();
    problem.saved_log_density = log_density.const_data_ptr<T>();
    problem.with_grad_weight = with_grad_weight;
    problem.grad_points = grad_points.mutable_data_ptr<T>();
    problem.grad_sources = sources ? grad_sources.mutable_data_ptr<T>() : nullptr;
    problem.grad_log_weight = with_grad_weight ? grad_log_weight.mutable_data_ptr<T>() : nullptr;
    TorchPool pool;
    const ScalarGradients scalars = run_mean_shift_backward(
        problem, scalar(kappa, "kappa"), scalar(eta, "eta"), point_offsets.const_data_ptr<int64_t>(),
        source_offsets.const_data_ptr<int64_t>(), point_offsets.numel() - 1, pool);
    *grad_kappa.mutable_data_ptr<T>() = T(scalars.kappa);
    *grad_eta.mutable_data_ptr<T>() = T(scalars.eta);
  };
  points.scalar_type() == at::kFloat ? run(float{}) : run(double{});
  return {grad_points, grad_sources, grad_log_weight, grad_kappa, grad_eta};
}

}  // namespace rpe
