// Connected components: tensors to launch/connected_components.h.
#include "../launch/connected_components.h"

#include "check.h"
#include "operators.h"
#include "torch_pool.h"

#include <ATen/ops/empty.h>

namespace rpe {

namespace {

template <class T>
void run(const at::Tensor& points, const at::Tensor& offsets, double threshold, at::Tensor& labels) {
  ConnectedComponents<T> problem{};
  problem.points = points.const_data_ptr<T>();
  problem.dim = points.size(1);
  problem.threshold = T(2 * threshold - 1);
  problem.labels = labels.mutable_data_ptr<int64_t>();
  TorchPool pool;
  run_connected_components(problem, offsets.const_data_ptr<int64_t>(), offsets.numel() - 1, pool);
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
