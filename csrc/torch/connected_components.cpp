// Connected components: tensors to launch/connected_components.h, phases on PyTorch's threads.
#include "../launch/connected_components.h"

#include <ATen/ops/empty.h>

#include "../launch/select.h"
#include "check.h"
#include "operators.h"
#include "parallel.h"

namespace rpe {

namespace {

template <class T>
void run(const at::Tensor& points, const at::Tensor& offsets, double threshold, at::Tensor& labels) {
  const ConnectedComponentsKernels<T>& kernels = connected_components_kernels<T>();
  const BlockPlan plan = make_plan(offsets.const_data_ptr<int64_t>(), offsets.numel() - 1, choose_block_rows(points.size(0)));
  ConnectedComponents<T> problem{};
  problem.points = points.const_data_ptr<T>();
  problem.dim = points.size(1);
  problem.threshold = T(2 * threshold - 1);
  problem.blocks = plan.blocks.data();
  problem.labels = labels.mutable_data_ptr<int64_t>();
  const Buffer buffer(bind_workspace(problem, plan.padded_rows(), nullptr));
  bind_workspace(problem, plan.padded_rows(), buffer.data());
  const ScratchPool scratch(kernels.scratch_bytes);
  run_tasks(plan.num_blocks(), [&](int64_t block) { kernels.prepare(problem, block); });
  run_symmetric(plan, [&](BlockPair pair) { kernels.pair(problem, pair, scratch.mine()); });
  run_tasks(plan.num_images(), [&](int64_t image) {
    kernels.number(problem, plan.first_block[image], plan.first_block[image + 1]);
  });
}

}  // namespace

at::Tensor connected_components(const at::Tensor& points, const at::Tensor& offsets, double threshold) {
  check_rows(points, "points");
  check_offsets(offsets, points.size(0), "offsets");
  at::Tensor labels = at::empty({points.size(0)}, points.options().dtype(at::kLong));
  if (points.scalar_type() == at::kFloat) {
    run<float>(points, offsets, threshold, labels);
  } else {
    run<double>(points, offsets, threshold, labels);
  }
  return labels;
}

}  // namespace rpe
