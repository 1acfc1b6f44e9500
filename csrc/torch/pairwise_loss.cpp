// Pairwise loss: tensors to launch/pairwise_loss.h, phases on PyTorch's threads.
#include "../launch/pairwise_loss.h"

#include <ATen/ops/empty.h>

#include "../launch/select.h"
#include "check.h"
#include "operators.h"
#include "parallel.h"

namespace rpe {

namespace {

template <class T>
void launch(PairwiseLoss<T>& problem, const BlockPlan& plan) {
  const PairwiseLossKernels<T>& kernels = pairwise_loss_kernels<T>();
  const Buffer buffer(bind_workspace(problem, plan.padded_rows(), plan.num_blocks(), nullptr));
  bind_workspace(problem, plan.padded_rows(), plan.num_blocks(), buffer.data());
  problem.blocks = plan.blocks.data();
  const ScratchPool scratch(kernels.scratch_bytes);
  run_tasks(plan.num_blocks(), [&](int64_t block) { kernels.prepare(problem, block); });
  run_symmetric(plan, [&](BlockPair pair) { kernels.pair(problem, pair, scratch.mine()); });
  run_tasks(plan.num_images(), [&](int64_t image) {
    kernels.finish(problem, image, plan.first_block[image], plan.first_block[image + 1]);
  });
}

template <class T>
void run(const at::Tensor& points, const at::Tensor& instance, const at::Tensor& weight, const at::Tensor& offsets,
         double margin, bool with_gradient, at::Tensor& loss, at::Tensor& gradient) {
  PairwiseLoss<T> problem{};
  problem.points = points.const_data_ptr<T>();
  problem.instance = instance.const_data_ptr<int64_t>();
  problem.weight = weight.const_data_ptr<T>();
  problem.dim = points.size(1);
  problem.threshold = T(2 * margin - 1);
  problem.with_gradient = with_gradient;
  problem.loss = loss.mutable_data_ptr<T>();
  problem.gradient = with_gradient ? gradient.mutable_data_ptr<T>() : nullptr;
  launch(problem, make_plan(offsets.const_data_ptr<int64_t>(), offsets.numel() - 1, choose_block_rows(points.size(0))));
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> pairwise_loss_forward(const at::Tensor& points, const at::Tensor& instance,
                                                         const at::Tensor& weight, const at::Tensor& offsets, double margin,
                                                         bool with_gradient) {
  check_rows(points, "points");
  check_like(instance, at::kLong, {points.size(0)}, "instance");
  check_like(weight, points.scalar_type(), {points.size(0)}, "weight");
  const int64_t images = check_offsets(offsets, points.size(0), "offsets");
  at::Tensor loss = at::empty({images}, points.options());
  at::Tensor gradient = at::empty({with_gradient ? points.size(0) : 0, points.size(1)}, points.options());
  if (points.scalar_type() == at::kFloat) {
    run<float>(points, instance, weight, offsets, margin, with_gradient, loss, gradient);
  } else {
    run<double>(points, instance, weight, offsets, margin, with_gradient, loss, gradient);
  }
  return {loss, gradient};
}

}  // namespace rpe
