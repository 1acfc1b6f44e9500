// A device for the tests of csrc/cuda: the emulation of tests/cpp/simt, on the host. Workspace is of exactly the size asked
// for, so that the address sanitizer sees the first byte outside, and comes filled with NaN patterns.
#pragma once

#include "simt.h"
#include "testing.h"

namespace testing {

// Runs one of csrc/cuda's functions with the workspace it asks for; threads in another order for each `seed`.
template <class Problem>
void run_on_device(size_t (*run)(const Problem&, void*, void*), const Problem& problem, uint64_t seed) {
  ThreadPool pool(1);
  const size_t bytes = run(problem, nullptr, nullptr);
  const std::shared_ptr<void> workspace = pool.allocate(bytes);
  simt::shuffle_threads(seed);
  CHECK(run(problem, workspace.get(), nullptr) == bytes);
}

// Rows that float16 holds, so that float16 products start from the same numbers as the formulas.
inline void round_to_half(std::vector<float>& values) {
  for (float& value : values) value = float(rpe::cuda::Half(value));
}

// What float16 weights cost relative to float32-grade ones.
constexpr double kHalfTolerance = 1.5e-3;

}  // namespace testing
