// Farthest points and nearest rows: tensors to launch/seeding.h.
#include "../launch/seeding.h"

#include "check.h"
#include "operators.h"
#include "torch_pool.h"

#include <ATen/ops/empty.h>

namespace rpe {

at::Tensor farthest_points(const at::Tensor& points, const at::Tensor& offsets, int64_t num_seeds,
                           const at::Tensor& first, double covered) {
  check_rows(points, "points");
  const int64_t images = check_offsets(offsets, points.size(0), "offsets");
  check_like(first, at::kLong, {images}, "first");
  TORCH_CHECK(num_seeds > 0, "num_seeds must be positive, got ", num_seeds);
  const int64_t *bounds = offsets.const_data_ptr<int64_t>(), *rows = first.const_data_ptr<int64_t>();
  for (int64_t image = 0; image < images; ++image) {
    const int64_t count = bounds[image + 1] - bounds[image];
    TORCH_CHECK(count == 0 || rows[image] < count, "first must name a row of image ", image, ", got ", rows[image]);
  }
  at::Tensor index = at::empty({images, num_seeds}, points.options().dtype(at::kLong));
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    FarthestPoints<T> problem{};
    problem.points = points.const_data_ptr<T>();
    problem.first = rows;
    problem.dim = points.size(1);
    problem.num_seeds = num_seeds;
    problem.covered = T(covered);
    problem.index = index.mutable_data_ptr<int64_t>();
    TorchPool pool;
    run_farthest_points(problem, bounds, images, pool);
  };
  points.scalar_type() == at::kFloat ? run(float{}) : run(double{});
  return index;
}

at::Tensor nearest_rows(const at::Tensor& points, const at::Tensor& rows, const at::Tensor& point_offsets,
                        const at::Tensor& row_offsets) {
  check_rows(points, "points");
  check_like(rows, points.scalar_type(), {rows.size(0), points.size(1)}, "rows");
  const int64_t images = check_offsets(point_offsets, points.size(0), "point_offsets");
  TORCH_CHECK(check_offsets(row_offsets, rows.size(0), "row_offsets") == images,
              "point_offsets and row_offsets must name the same number of images");
  at::Tensor nearest = at::empty({points.size(0)}, points.options().dtype(at::kLong));
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    NearestRows<T> problem{};
    problem.points = points.const_data_ptr<T>();
    problem.rows = rows.const_data_ptr<T>();
    problem.dim = points.size(1);
    problem.row_offsets = row_offsets.const_data_ptr<int64_t>();
    problem.nearest = nearest.mutable_data_ptr<int64_t>();
    TorchPool pool;
    run_nearest_rows(problem, point_offsets.const_data_ptr<int64_t>(), images, pool);
  };
  points.scalar_type() == at::kFloat ? run(float{}) : run(double{});
  return nearest;
}

}  // namespace rpe
