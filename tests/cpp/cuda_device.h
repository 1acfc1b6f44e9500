// A device for the tests of csrc/cuda: this machine's GPU where RPE_ON_GPU is defined, else the emulation of tests/cpp/simt.
// Workspace is of exactly the size asked for, so that the address sanitizer (on a GPU: compute-sanitizer) sees the first
// byte outside, and comes filled with NaN patterns.
#pragma once

#include "testing.h"

#include <functional>

#if defined(RPE_ON_GPU)

#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace testing {

using Half = __half;

// Copies of the tests' vectors on the GPU, for the lifetime of this object.
class Device {
 public:
  Device() = default;
  Device(const Device&) = delete;
  ~Device() {
    for (void* memory : memory_) cudaFree(memory);
  }
  template <class T>
  const T* input(const std::vector<T>& values) {
    T* memory = static_cast<T*>(allocate(values.size() * sizeof(T)));
    check(cudaMemcpy(memory, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
    return memory;
  }
  // What is there after a run is copied back to `values`, which has to live as long.
  template <class T>
  T* output(std::vector<T>& values) {
    T* memory = const_cast<T*>(input(values));
    copy_back_.push_back([this, memory, &values] {
      check(cudaMemcpy(values.data(), memory, values.size() * sizeof(T), cudaMemcpyDeviceToHost));
    });
    return memory;
  }
  // Runs one of csrc/cuda's functions with the workspace it asks for. The seed is for the emulation: a GPU has an order of
  // its own every time.
  template <class Problem>
  void run(size_t (*function)(const Problem&, void*, void*), const Problem& problem, uint64_t) {
    const size_t bytes = function(problem, nullptr, nullptr);
    void* workspace = allocate(bytes);
    check(cudaMemset(workspace, 0xff, bytes));
    CHECK(function(problem, workspace, nullptr) == bytes);
    check(cudaGetLastError());
    check(cudaDeviceSynchronize());
    for (const auto& copy : copy_back_) copy();
  }

 private:
  static void check(cudaError_t error) {
    if (error == cudaSuccess) return;
    std::printf("[%s] %s\n", context().c_str(), cudaGetErrorString(error));
    std::exit(1);
  }
  void* allocate(size_t bytes) {
    void* memory = nullptr;
    check(cudaMalloc(&memory, bytes > 0 ? bytes : 1));
    memory_.push_back(memory);
    return memory;
  }
  std::vector<void*> memory_;
  std::vector<std::function<void()>> copy_back_;
};

}  // namespace testing

#else

#include "simt.h"

namespace testing {

using Half = rpe::cuda::Half;

// The host's memory is the device's.
class Device {
 public:
  template <class T>
  const T* input(const std::vector<T>& values) {
    return values.data();
  }
  template <class T>
  T* output(std::vector<T>& values) {
    return values.data();
  }
  // Runs one of csrc/cuda's functions with the workspace it asks for; threads in another order for each `seed`.
  template <class Problem>
  void run(size_t (*function)(const Problem&, void*, void*), const Problem& problem, uint64_t seed) {
    ThreadPool pool(1);
    const size_t bytes = function(problem, nullptr, nullptr);
    const std::shared_ptr<void> workspace = pool.allocate(bytes);
    simt::shuffle_threads(seed);
    CHECK(function(problem, workspace.get(), nullptr) == bytes);
  }
};

}  // namespace testing

#endif

namespace testing {

// Rows that float16 holds, so that float16 products start from the same numbers as the formulas.
inline void round_to_half(std::vector<float>& values) {
  for (float& value : values) value = float(Half(value));
}

// What float16 weights cost relative to float32-grade ones.
constexpr double kHalfTolerance = 1.5e-3;

}  // namespace testing
