// csrc/cuda's pairwise loss on the device, emulated or real: against literal double loops, with shuffled threads, in
// ragged batches, at every width.
#include "cuda/pairwise_loss.h"
#include "cuda_device.h"
#include "pairwise_loss_problem.h"

namespace {

using namespace testing::pairwise_loss;

struct Results {
  std::vector<float> loss, gradient;
};

Results run(const Problem<float>& given, bool half, bool with_gradient, uint64_t seed) {
  Results r;
  r.loss.assign(given.offsets.size() - 1, -1.0f);
  r.gradient.assign(with_gradient ? given.points.size() : 0, -1.0f);
  testing::Device device;
  rpe::cuda::PairwiseLoss p{};
  p.points = device.input(given.points);
  p.instance = device.input(given.instance);
  p.weight = device.input(given.weight);
  p.offsets = device.input(given.offsets);
  p.num_points = given.offsets.back();
  p.dim = given.dim;
  p.num_images = int(given.offsets.size()) - 1;
  p.margin = float(given.margin);
  p.half = half;
  p.processors = 4;
  p.loss = device.output(r.loss);
  p.grad = with_gradient ? device.output(r.gradient) : nullptr;
  device.run(rpe::cuda::pairwise_loss, p, seed);
  return r;
}

void check(const std::vector<int64_t>& sizes, int64_t dim, double margin, bool half) {
  testing::context() = "dim " + std::to_string(dim) + " margin " + std::to_string(margin) + (half ? " half" : "");
  Problem<float> problem(sizes, dim, margin, unsigned(17 + dim));
  if (half) testing::round_to_half(problem.points);
  const Results result = run(problem, half, true, 0), again = run(problem, half, true, 5);
  problem.compare(result.loss, result.gradient, half ? testing::kHalfTolerance : testing::tolerance<float>());
  CHECK(testing::same_bits(result.loss, again.loss));
  CHECK(testing::same_bits(result.gradient, again.gradient));
  CHECK(testing::same_bits(result.loss, run(problem, half, false, 0).loss));
}

}  // namespace

int main(int argc, char** argv) {
  for (bool half : {false, true}) {
    for (int64_t dim : testing::widths(argc, argv, {1, 8, 16, 17, 64, 100, 256}))
      check({0, 1, 2, 49, 0, 90}, dim, 0.5, half);
    if (argc > 1) continue;
    // instances within a tile, across tiles and across groups of rows; columns split over thread blocks
    for (int64_t size : {63, 64, 65, 127, 129, 300}) check({size}, 5, 0.3, half);
    check({1100}, 8, 0.55, half);
    for (double margin : {0.0, 0.99, 1.0}) check({150}, 6, margin, half);
  }
  if (argc > 1) return testing::finish();
  check({}, 4, 0.5, false);
  check({0, 0}, 4, 0.5, false);
  return testing::finish();
}
