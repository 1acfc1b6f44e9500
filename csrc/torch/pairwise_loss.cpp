// Pairwise loss: tensors to launch/pairwise_loss.h.
#include "../launch/pairwise_loss.h"

#include "check.h"
#include "operators.h"
#include "torch_pool.h"

#include <ATen/ops/empty.h>

namespace rpe {

namespace {

template <class T>
void run(const at::Tensor& points, const at::Tensor& instance, const at::Tensor& weight, const at::Tensor& offsets,
         double margin, bool with_gradient, bool half, at::Tensor& loss, at::Tensor& gradient) {
  PairwiseLoss<T> problem{};
  problem.points = points.const_data_ptr<T>();
  problem.instance = instance.const_data_ptr<int64_t>();
  problem.weight = weight.const_data_ptr<T>();
  problem.dim = points.size(1);
  problem.threshold = T(2 * margin - 1);
  problem.with_gradient = with_gradient;
  problem.half = half;
  problem.loss = loss.mutable_data_ptr<T>();
  problem.gradient = with_gradient ? gradient.mutable_data_ptr<T>() : nullptr;
  TorchPool pool;
  run_pairwise_loss(problem, offsets.const_data_ptr<int64_t>(), offsets.numel() - 1, pool);
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> pairwise_loss_forward(const at::Tensor& points, const at::Tensor& instance,
                                                         const at::Tensor& weight, const at::Tensor& offsets,
                                                         double margin, bool with_gradient, bool half) {
  check_rows(points, "points");
  check_like(instance, at::kLong, {points.size(0)}, "instance");
  check_like(weight, points.scalar_type(), {points.size(0)}, "weight");
  const int64_t images = check_offsets(offsets, points.size(0), "offsets");
  at::Tensor loss = at::empty({images}, points.options());
  at::Tensor gradient = at::empty({with_gradient ? points.size(0) : 0, points.size(1)}, points.options());
  if (points.scalar_type() == at::kFloat) {
    run<float>(points, instance, weight, offsets, margin, with_gradient, half, loss, gradient);
  } else {
    run<double>(points, instance, weight, offsets, margin, with_gradient, half, loss, gradient);
  }
  return {loss, gradient};
}

}  // namespace rpe
