// PyTorch's threads and allocator as a TaskPool.
#pragma once

#include "../launch/pool.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <atomic>

namespace rpe {

class TorchPool : public TaskPool {
 public:
  void run(int64_t count, const std::function<void(int64_t)>& task) override {
    std::atomic<int64_t> next{0};
    at::parallel_for(0, std::min(count, threads_), 1, [&](int64_t, int64_t) {
      for (int64_t i = next++; i < count; i = next++) task(i);
    });
  }
  int64_t num_threads() const override { return threads_; }
  int64_t thread_index() const override { return at::get_thread_num(); }
  std::shared_ptr<void> allocate(size_t bytes) override {
    constexpr uintptr_t alignment = 64;
    at::Tensor tensor = at::empty({int64_t(bytes + alignment)}, at::TensorOptions().dtype(at::kByte).device(at::kCPU));
    const auto address =
        (reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr()) + alignment - 1) / alignment * alignment;
    // The handle keeps the tensor alive.
    return std::shared_ptr<void>(reinterpret_cast<void*>(address), [tensor](void*) {});
  }

 private:
  const int64_t threads_ = std::max(at::get_num_threads(), 1);
};

}  // namespace rpe
