// Pairwise loss: workspace and phases (see pairwise_loss.h).
#include "pairwise_loss.h"

#include "select.h"
#include "workspace.h"

namespace rpe {

namespace {

template <class T>
size_t bind_workspace(PairwiseLoss<T>& problem, int64_t padded_rows, int64_t num_blocks, void* memory) {
  Workspace workspace(memory);
  problem.stride = padded_dim<T>(problem.dim);
  problem.rows = workspace.take<T>(padded_rows * problem.stride);
  problem.weighted_rows = workspace.take<T>(padded_rows * problem.stride);
  if (problem.half) problem.half_weighted = take_half_partners(workspace, padded_rows, problem.stride, problem.dim);
  problem.panels = workspace.take<T>(padded_rows * problem.dim);
  problem.centers = workspace.take<T>(padded_rows / kRowQuantum * problem.stride);
  problem.chunks = workspace.take<Chunk<T>>(padded_rows / kRowQuantum);
  problem.weights = workspace.take<T>(padded_rows);
  problem.labels = workspace.take<typename PairwiseLoss<T>::Label>(padded_rows);
  problem.push = workspace.take<T>(padded_rows * problem.stride);
  problem.block_hinge = workspace.take<double>(num_blocks);
  return workspace.bytes();
}

}  // namespace

template <class T>
void run_pairwise_loss(PairwiseLoss<T> problem, const int64_t* offsets, int64_t num_images, TaskPool& pool) {
  const PairwiseLossKernels<T>& kernels = pairwise_loss_kernels<T>();
  const BlockPlan plan = make_plan(offsets, num_images, choose_block_rows(offsets[num_images]));
  problem.half = problem.half && problem.with_gradient && kernels.half_pair && simd_half_products();
  const auto multiply = problem.half ? kernels.half_pair : kernels.pair;
  const auto memory = pool.allocate(bind_workspace(problem, plan.padded_rows(), plan.num_blocks(), nullptr));
  bind_workspace(problem, plan.padded_rows(), plan.num_blocks(), memory.get());
  problem.blocks = plan.blocks.data();
  const ScratchPool scratch(pool, kernels.scratch_bytes);
  pool.run(plan.num_blocks(), [&](int64_t block) { kernels.prepare(problem, block); });
  run_symmetric(
      pool, plan, [](const BlockPair&) { return true; },
      [&](const BlockPair& pair) { multiply(problem, pair, scratch.mine()); });
  pool.run(num_images, [&](int64_t image) {
    kernels.finish(problem, image, plan.first_block[size_t(image)], plan.first_block[size_t(image) + 1]);
  });
}

template void run_pairwise_loss<float>(PairwiseLoss<float>, const int64_t*, int64_t, TaskPool&);
template void run_pairwise_loss<double>(PairwiseLoss<double>, const int64_t*, int64_t, TaskPool&);

}  // namespace rpe
