// The sums of one number per row (csrc/cuda/rows.cuh) on the emulated device: one thread block for an image, several, more
// than a warp has lanes, and the most there are; images of any length, threads in any order.
#include "cuda/rows.cuh"
#include "testing.h"

namespace {

using rpe::Workspace;
using rpe::cuda::kRowsOfPart;
using rpe::cuda::kSumParts;
using rpe::cuda::SumSpace;

constexpr double kFactor = 0.5;

std::vector<float> sums_of(const std::vector<double>& values, const std::vector<int64_t>* offsets, int num_parts,
                           uint64_t seed) {
  const int num_images = offsets == nullptr ? 1 : int(offsets->size()) - 1;
  const int64_t num_rows = int64_t(values.size());
  Workspace measure(nullptr);
  SumSpace(measure, num_rows, num_images);
  testing::ThreadPool pool(1);
  const std::shared_ptr<void> memory = pool.allocate(measure.bytes());
  Workspace workspace(memory.get());
  const SumSpace space(workspace, num_rows, num_images);
  CHECK(space.num_parts == num_parts);
  std::vector<float> sums(size_t(num_images), -9.0f);
  simt::shuffle_threads(seed);
  space.run(values.data(), offsets == nullptr ? nullptr : offsets->data(), num_rows, kFactor, sums.data(), nullptr);
  return sums;
}

void check(const std::vector<int64_t>& sizes, int num_parts) {
  const std::vector<int64_t> offsets = testing::offsets_of(sizes);
  testing::context() = std::to_string(offsets.back()) + " rows in " + std::to_string(sizes.size()) + " images";
  std::mt19937 generator(unsigned(offsets.back()));
  std::normal_distribution<double> normal;
  std::vector<double> values(size_t(offsets.back()));
  for (double& value : values) value = 1.0 + normal(generator);
  const bool one = sizes.size() == 1;
  const std::vector<float> sums = sums_of(values, one ? nullptr : &offsets, num_parts, 0);
  for (size_t image = 0; image < sizes.size(); ++image) {
    double exact = 0;
    for (int64_t row = offsets[image]; row < offsets[image + 1]; ++row) exact += values[size_t(row)];
    CHECK_NEAR(sums[image], kFactor * exact, 1e-7 * std::fabs(exact));
  }
  CHECK(testing::same_bits(sums, sums_of(values, one ? nullptr : &offsets, num_parts, 5)));
  CHECK(testing::same_bits(sums, sums_of(values, &offsets, num_parts, 9)));
}

}  // namespace

int main() {
  for (int64_t size : {int64_t(0), int64_t(1), int64_t(255), kRowsOfPart}) check({size}, 1);
  check({kRowsOfPart + 1}, 2);
  check({40 * kRowsOfPart + 77}, 41);
  check({kSumParts * kRowsOfPart + 1}, kSumParts);
  check({0, 3, 9 * kRowsOfPart, 0, 1, kRowsOfPart + 5, 0}, 2);
  return testing::finish();
}
