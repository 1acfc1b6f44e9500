// csrc/cuda's connected components on the device, emulated or real: one round against a literal double loop.
#include "components_problem.h"
#include "cuda/connected_components.h"
#include "cuda_device.h"

namespace {

// Smallest root of another component among the neighbours of each point.
std::vector<int32_t> neighbours(const std::vector<float>& points, const std::vector<int64_t>& offsets, int64_t dim,
                                double threshold, const std::vector<int32_t>& root) {
  std::vector<int32_t> result(root.size(), int32_t(root.size()));
  for (size_t image = 0; image + 1 < offsets.size(); ++image) {
    for (size_t i = size_t(offsets[image]); i < size_t(offsets[image + 1]); ++i) {
      for (size_t j = size_t(offsets[image]); j < size_t(offsets[image + 1]); ++j) {
        const double cosine = testing::dot(&points[i * size_t(dim)], &points[j * size_t(dim)], dim);
        if (cosine >= 2 * threshold - 1 && root[j] != root[i]) result[i] = std::min(result[i], root[j]);
      }
    }
  }
  return result;
}

void check(const std::vector<int64_t>& sizes, int64_t dim, double threshold) {
  testing::context() = "dim " + std::to_string(dim) + " threshold " + std::to_string(threshold);
  const std::vector<int64_t> offsets = testing::offsets_of(sizes);
  const std::vector<float> points = testing::lattice_rows<float>(offsets.back(), dim, unsigned(dim));
  std::vector<int32_t> root(size_t(offsets.back()));
  for (size_t i = 0; i < root.size(); ++i) root[i] = int32_t(i / 3 * 3);
  for (int32_t more : {1, 0}) {
    const std::vector<int32_t> unfinished{more};
    testing::Device device;
    std::vector<int32_t> result(root.size(), -9);
    rpe::cuda::ForeignRoot p{};
    p.points = device.input(points);
    p.root = device.input(root);
    p.unfinished = device.input(unfinished);
    p.offsets = device.input(offsets);
    p.num_points = offsets.back();
    p.dim = dim;
    p.num_images = int(sizes.size());
    p.threshold = float(2 * threshold - 1);
    p.processors = 4;
    p.neighbour = device.output(result);
    device.run(rpe::cuda::foreign_root, p, uint64_t(more));
    const std::vector<int32_t> none(root.size(), int32_t(root.size()));
    CHECK(result == (more ? neighbours(points, offsets, dim, threshold, root) : none));
  }
}

}  // namespace

int main(int argc, char** argv) {
  // integer coordinates: every cosine is exact
  for (int64_t dim : testing::widths(argc, argv, {1, 3, 8, 17, 64, 128, 200})) {
    for (double threshold : {0.5, 0.75, 0.95}) check({0, 1, 47, 0, 90, 49}, dim, threshold);
  }
  if (argc > 1) return testing::finish();
  check({1100}, 8, 0.9);
  check({}, 4, 0.5);
  return testing::finish();
}
