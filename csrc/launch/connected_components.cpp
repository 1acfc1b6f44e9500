// Connected components: workspace and phases (see connected_components.h).
#include "connected_components.h"

#include "select.h"
#include "workspace.h"

namespace rpe {

namespace {

template <class T>
size_t bind_workspace(ConnectedComponents<T>& problem, int64_t padded_rows, void* memory) {
  Workspace workspace(memory);
  problem.stride = padded_dim<T>(problem.dim);
  problem.rows = workspace.take<T>(padded_rows * problem.stride);
  problem.panels = workspace.take<T>(padded_rows * problem.dim);
  problem.centers = workspace.take<T>(padded_rows / kRowQuantum * problem.stride);
  problem.chunks = workspace.take<Chunk<T>>(padded_rows / kRowQuantum);
  problem.parent = workspace.take<typename ConnectedComponents<T>::Index>(padded_rows);
  return workspace.bytes();
}

}  // namespace

template <class T>
void run_connected_components(ConnectedComponents<T> problem, const int64_t* offsets, int64_t num_images,
                              TaskPool& pool) {
  const ConnectedComponentsKernels<T>& kernels = connected_components_kernels<T>();
  const BlockPlan plan = make_plan(offsets, num_images, choose_block_rows(offsets[num_images]));
  const auto memory = pool.allocate(bind_workspace(problem, plan.padded_rows(), nullptr));
  bind_workspace(problem, plan.padded_rows(), memory.get());
  problem.blocks = plan.blocks.data();
  const ScratchPool scratch(pool, kernels.scratch_bytes);
  pool.run(plan.num_blocks(), [&](int64_t block) { kernels.prepare(problem, block); });
  run_symmetric(
      pool, plan, [](const BlockPair&) { return true; },
      [&](const BlockPair& pair) { kernels.pair(problem, pair, scratch.mine()); });
  pool.run(num_images, [&](int64_t image) {
    kernels.number(problem, plan.first_block[size_t(image)], plan.first_block[size_t(image) + 1]);
  });
}

template void run_connected_components<float>(ConnectedComponents<float>, const int64_t*, int64_t, TaskPool&);
template void run_connected_components<double>(ConnectedComponents<double>, const int64_t*, int64_t, TaskPool&);

}  // namespace rpe
