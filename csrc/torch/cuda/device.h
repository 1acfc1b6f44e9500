// The GPU as the operators see it: its device, current stream, workspace from PyTorch's allocator, errors of launches.
// Under RPE_SIMT the kernels run on the host, over the emulation of tests/cpp/simt, and tensors are on the CPU.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstdint>

#if defined(RPE_SIMT)

#define RPE_DISPATCH_KEY CPU

namespace rpe {
namespace cuda {

constexpr c10::DeviceType kDevice = c10::DeviceType::CPU;

struct DeviceScope {
  explicit DeviceScope(const at::Tensor&) {}
  int processors() const { return 2; }
  void* stream() const { return nullptr; }
  void check_launches() const {}
};

}  // namespace cuda
}  // namespace rpe

#else

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <cuda_runtime_api.h>

#define RPE_DISPATCH_KEY CUDA

namespace rpe {
namespace cuda {

constexpr c10::DeviceType kDevice = c10::DeviceType::CUDA;

// Makes the tensor's GPU the current one for its lifetime.
struct DeviceScope {
  explicit DeviceScope(const at::Tensor& tensor) : guard(tensor.device()) {}
  int processors() const {
    int count = 1;
    C10_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, guard.current_device().index()));
    return count;
  }
  void* stream() const { return c10::cuda::getCurrentCUDAStream().stream(); }
  void check_launches() const { C10_CUDA_KERNEL_LAUNCH_CHECK(); }

  c10::cuda::CUDAGuard guard;
};

}  // namespace cuda
}  // namespace rpe

#endif

namespace rpe {
namespace cuda {

// Asks `run(problem, workspace, stream)` how much workspace it needs, and runs it with that.
template <class Problem>
void run_with_workspace(size_t (*run)(const Problem&, void*, void*), const Problem& problem, const at::Tensor& like,
                        const DeviceScope& device) {
  const size_t bytes = run(problem, nullptr, nullptr);
  at::Tensor workspace = at::empty({int64_t(bytes)}, like.options().dtype(at::kByte));
  run(problem, workspace.mutable_data_ptr(), device.stream());
  device.check_launches();
}

}  // namespace cuda
}  // namespace rpe
