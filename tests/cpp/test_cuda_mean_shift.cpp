// csrc/cuda's mean shift on the device, emulated or real: against literal double loops, with shuffled threads, in ragged
// batches, at every width.
#include "cuda/mean_shift.h"
#include "cuda/traits.cuh"
#include "cuda_device.h"
#include "mean_shift_problem.h"

namespace {

using namespace testing::mean_shift;

// For each chunk of rows the columns that it sees (csrc/cuda/tile_list.h).
struct Lists {
  std::vector<int32_t> before{0}, begin{0}, columns;

  Lists() = default;
  Lists(const Problem<float>& problem, const std::vector<int64_t>& rows, const std::vector<int64_t>& partners) {
    const int64_t chunk = problem.c.chunk;
    for (size_t image = 0; image + 1 < rows.size(); ++image) {
      for (int64_t i = 0; i < rows[image + 1] - rows[image]; i += chunk) {
        for (int64_t j = 0; j < partners[image + 1] - partners[image]; j += chunk)
          if (problem.kept(i, j)) columns.push_back(int32_t(partners[image] + j));
        begin.push_back(int32_t(columns.size()));
      }
      before.push_back(int32_t(begin.size()) - 1);
    }
  }
  rpe::cuda::TileList on(testing::Device& device) const {
    return {device.input(before), device.input(begin), device.input(columns)};
  }
};

Results<float> run(const Problem<float>& problem, bool half, int processors, uint64_t seed) {
  Results<float> r;
  const size_t num_points = size_t(problem.point_offsets.back()), num_sources = size_t(problem.source_offsets.back());
  r.moved.assign(problem.points.size(), -9.0f);
  r.mean = r.grad_points = r.moved;
  r.log_density.assign(num_points, -9.0f);
  r.grad_sources.assign(problem.blurring ? 0 : problem.sources.size(), -9.0f);
  r.grad_log_weight.assign(problem.c.masses ? num_sources : 0, -9.0f);
  const std::vector<float> kappa{float(problem.c.kappa)}, eta{float(problem.c.eta)};
  std::vector<float> grad_kappa{-9.0f}, grad_eta{-9.0f};
  testing::Device device;
  rpe::cuda::MeanShift p{};
  p.points = device.input(problem.points);
  p.blurring = problem.blurring;
  p.sources = problem.blurring ? p.points : device.input(problem.sources);
  p.log_weight = problem.c.masses ? device.input(problem.log_weight) : nullptr;
  p.kappa = device.input(kappa);
  p.eta = device.input(eta);
  p.point_offsets = device.input(problem.point_offsets);
  p.source_offsets = device.input(problem.source_offsets);
  p.num_points = int64_t(num_points);
  p.num_sources = int64_t(num_sources);
  p.dim = problem.c.dim;
  p.num_images = int(problem.point_offsets.size()) - 1;
  p.half = half;
  p.processors = processors;
  Lists seen, seeing;
  if (problem.c.chunk > 0) {
    seen = Lists(problem, problem.point_offsets, problem.source_offsets);
    seeing = Lists(problem, problem.source_offsets, problem.point_offsets);
    p.seen = seen.on(device);
    p.seeing = seeing.on(device);
  }
  p.moved = device.output(r.moved);
  p.mean = device.output(r.mean);
  p.log_density = device.output(r.log_density);
  device.run(rpe::cuda::mean_shift_forward, p, seed);
  p.grad_moved = device.input(problem.grad_moved);
  p.grad_points = device.output(r.grad_points);
  p.grad_sources = problem.blurring ? nullptr : device.output(r.grad_sources);
  p.grad_weight = problem.c.masses ? device.output(r.grad_log_weight) : nullptr;
  p.grad_kappa = device.output(grad_kappa);
  p.grad_eta = device.output(grad_eta);
  device.run(rpe::cuda::mean_shift_backward, p, seed);
  // the gradient is in the mass itself; where there is none, that in its logarithm is 0
  for (size_t j = 0; j < r.grad_log_weight.size(); ++j) {
    CHECK(std::isfinite(r.grad_log_weight[j]));
    r.grad_log_weight[j] =
        std::isinf(problem.log_weight[j]) ? 0 : r.grad_log_weight[j] * std::exp(problem.log_weight[j]);
  }
  r.scalars = {grad_kappa[0], grad_eta[0]};
  return r;
}

void check(const Case& c, bool half, int processors = 4) {
  testing::context() = "dim " + std::to_string(c.dim) + " kappa " + std::to_string(c.kappa) + (half ? " half" : "") +
                       (c.masses ? " masses" : "") + (c.source_sizes.empty() ? "" : " seeds");
  Problem<float> problem(c);
  if (half) {
    testing::round_to_half(problem.points);
    testing::round_to_half(problem.sources);
  }
  const Results<float> result = run(problem, half, processors, 0), again = run(problem, half, processors, 7);
  CHECK(testing::same_bits(result.moved, again.moved));
  CHECK(testing::same_bits(result.log_density, again.log_density));
  CHECK(testing::same_bits(result.grad_points, again.grad_points));
  CHECK(testing::same_bits(result.grad_sources, again.grad_sources));
  CHECK(testing::same_bits(result.grad_log_weight, again.grad_log_weight));
  CHECK(testing::same_bits(result.scalars, again.scalars));
  const Results<double> exact = problem.literal();
  const double unit = (half ? testing::kHalfTolerance : testing::tolerance<float>()) * (1 + 0.1 * c.kappa);
  compare(result.moved, exact.moved, 4 * unit);
  compare(result.mean, exact.mean, unit);
  compare(result.log_density, exact.log_density, unit * (1 + c.kappa));
  const double scale = 1 + std::max(testing::largest(exact.grad_points), testing::largest(exact.grad_sources));
  compare(result.grad_points, exact.grad_points, 4 * unit * scale);
  compare(result.grad_sources, exact.grad_sources, 4 * unit * scale);
  compare(result.grad_log_weight, exact.grad_log_weight, 4 * unit * (1 + testing::largest(exact.grad_log_weight)));
  compare(result.scalars, exact.scalars, 4 * unit * (double(problem.point_offsets.back()) + 1));
}

// Clusters so tight, and kappa so large, that the rounding of lengths alone would empty or fill the kernel. The rows are
// float16 numbers, of nearly unit length; the formulas see the unit rows that they stand for.
void check_tight_clusters(double kappa, float spread) {
  Problem<float> problem(Case{{60}, {}, 3, kappa, 0.9, false});
  std::vector<float> unit = problem.points;
  for (size_t i = 0; i < 60; ++i)
    for (size_t d = 0; d < 3; ++d) problem.points[3 * i + d] = unit[3 * (i % 4) + d] + spread * unit[3 * i + d];
  const auto normalise = [](std::vector<float>& rows) {
    for (size_t i = 0; i < rows.size(); i += 3) {
      const double length = std::sqrt(testing::dot(&rows[i], &rows[i], 3));
      for (size_t d = 0; d < 3; ++d) rows[i + d] = float(rows[i + d] / length);
    }
  };
  normalise(problem.points);
  testing::round_to_half(problem.points);
  const Results<float> result = run(problem, true, 4, 0);
  normalise(problem.points);
  problem.sources = problem.points;
  const Results<double> exact = problem.literal();
  testing::context() = "tight clusters, kappa " + std::to_string(kappa);
  compare(result.moved, exact.moved, 2e-3);
  // what is compared are slopes as steep as kappa; 1e5 magnifies the last bit of a float to a hundredth
  compare(result.grad_points, exact.grad_points, 0.05 * testing::largest(exact.grad_points));
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<int64_t> ragged{0, 1, 15, 0, 70};
  for (int64_t dim : testing::widths(argc, argv, {3, 8, 16, 20, 64, 100, 256})) {
    for (bool half : {false, true}) {
      check({ragged, {}, dim, 5.0, 1.0, false}, half);
      check({{3, 1, 20, 0, 2}, ragged, dim, 5.0, 0.7, true}, half);
    }
  }
  // pairs of chunks left out, in ragged batches: a row that sees nothing stays where it is
  const std::vector<int64_t> chunked{0, 64, 15, 0, 200, 129};
  for (int64_t dim : testing::widths(argc, argv, {8, 32, 64, 100, 256})) {
    for (bool half : {false, true}) {
      check({chunked, {}, dim, 5.0, 0.8, false, 0, 0, rpe::cuda::kListChunk}, half);
      check({{3, 70, 20, 0, 65, 1}, chunked, dim, 5.0, 0.7, true, 0, 0, rpe::cuda::kListChunk}, half);
    }
  }
  if (argc > 1) return testing::finish();
  check({{1100}, {}, 16, 20.0, 1.0, false, 0, 0, rpe::cuda::kListChunk}, false);
  check({{150}, {1060}, 16, 20.0, 1.0, true, 0, 0, rpe::cuda::kListChunk}, false);
  check_tight_clusters(3e4, 3e-3f);
  check_tight_clusters(1e5, 3e-3f);
  check_tight_clusters(1e5, 1e-3f);
  check_tight_clusters(1e6, 1e-3f);
  for (double kappa : {1e-3, 10.0, 100.0}) {
    for (bool masses : {false, true}) {
      check({ragged, {}, 17, kappa, 0.7, masses}, false);
      check({{3, 1, 60, 0, 2}, ragged, 32, kappa, 1.3, masses}, false);
    }
  }
  // columns split over thread blocks, rows over several tiles
  check({{1100}, {}, 8, 20.0, 1.0, false}, true);
  check({{1100}, {}, 8, 20.0, 1.0, false}, false);
  check({{150}, {1060}, 16, 20.0, 1.0, true}, false);
  check({{1060}, {70}, 16, 20.0, 1.0, false}, false);
  check({{}, {}, 4, 5.0, 1.0, false}, false);
  check({{0, 0}, {3, 0}, 4, 5.0, 1.0, true}, false);
  return testing::finish();
}
