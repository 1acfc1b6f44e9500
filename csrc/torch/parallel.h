// Tasks on PyTorch's thread pool. Every task has its own outputs, so results do not depend on which thread takes it.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <atomic>
#include <cstdint>
#include <vector>

#include "../launch/plan.h"

namespace rpe {

// Bytes for kernels, aligned for any vector, released with the object.
class Buffer {
 public:
  explicit Buffer(size_t bytes)
      : tensor_(at::empty({int64_t(bytes) + kAlignment}, at::TensorOptions().dtype(at::kByte).device(at::kCPU))) {}
  void* data() const {
    const auto address = reinterpret_cast<uintptr_t>(tensor_.data_ptr());
    return reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
  }

 private:
  static constexpr int64_t kAlignment = 64;
  at::Tensor tensor_;
};

// One scratch area per thread of the pool.
class ScratchPool {
 public:
  explicit ScratchPool(int64_t bytes)
      : bytes_((bytes + 127) / 64 * 64), buffer_(size_t(bytes_ * std::max(at::get_num_threads(), 1))) {}
  void* mine() const { return static_cast<char*>(buffer_.data()) + bytes_ * at::get_thread_num(); }

 private:
  int64_t bytes_;
  Buffer buffer_;
};

// Calls task(i) for 0 <= i < count; each thread takes the next free index.
template <class Task>
void run_tasks(int64_t count, const Task& task) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>(count, at::get_num_threads()), 1, [&](int64_t, int64_t) {
    for (int64_t i = next++; i < count; i = next++) task(i);
  });
}

// Rounds in order, the pairs of one round at the same time.
template <class Task>
void run_symmetric(const BlockPlan& plan, const Task& task) {
  std::vector<BlockPair> pairs;
  for (int64_t round = 0, rounds = symmetric_rounds(plan); round < rounds; ++round) {
    symmetric_round(plan, round, pairs);
    run_tasks(int64_t(pairs.size()), [&](int64_t i) { task(pairs[i]); });
  }
}

template <class Task>
void run_rectangular(const BlockPlan& rows, const BlockPlan& columns, const Task& task) {
  std::vector<BlockPair> pairs;
  for (int64_t round = 0, rounds = rectangular_rounds(rows, columns); round < rounds; ++round) {
    rectangular_round(rows, columns, round, pairs);
    run_tasks(int64_t(pairs.size()), [&](int64_t i) { task(pairs[i]); });
  }
}

}  // namespace rpe
