// What a kernel may ask of the GPU: indices, barriers, shuffles, shared memory, copies, tensor-core products, launches.
//
// Kernels use nothing else, so that they compile twice: by nvcc, with the instructions below, and as plain C++ over the
// emulation of tests/cpp/simt, which runs them on the host and checks what hardware does not.
// Shared memory is reached only through `shared_load`, `shared_store`, `copy_async_16` and `ldmatrix_*`.
#pragma once

#if !defined(__CUDACC__)

#include "simt.h"

#else

#include <cstddef>
#include <cstdint>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdexcept>
#include <string>

#define RPE_DEVICE static __device__ __forceinline__
#define RPE_DEVICE_MEMBER __device__ __forceinline__
// RPE_KERNEL(threads, blocks): a kernel of thread blocks of `threads`, `blocks` of which should fit a multiprocessor.
#define RPE_KERNEL(THREADS, BLOCKS) static __global__ void __launch_bounds__(THREADS, BLOCKS)

namespace rpe {
namespace cuda {

using Half = __half;
using Stream = cudaStream_t;

struct Grid {
  unsigned x = 1, y = 1, z = 1;
};

RPE_DEVICE int thread_index() {
  return int(threadIdx.x);
}
RPE_DEVICE Grid block_index() {
  return {blockIdx.x, blockIdx.y, blockIdx.z};
}
RPE_DEVICE Grid grid_size() {
  return {gridDim.x, gridDim.y, gridDim.z};
}

// Waits for all threads of the thread block.
RPE_DEVICE void barrier() {
  __syncthreads();
}

// The value of lane (own lane ^ mask); all 32 lanes take part.
template <class T>
RPE_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
// The value of one lane.
template <class T>
RPE_DEVICE T shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}
RPE_DEVICE bool any_in_warp(bool value) {
  return __any_sync(0xffffffffu, value) != 0;
}

// Integer atomics only: their result does not depend on the order.
RPE_DEVICE void atomic_max(uint32_t* address, uint32_t value) {
  atomicMax(address, value);
}
RPE_DEVICE void atomic_min(int32_t* address, int32_t value) {
  atomicMin(address, value);
}
RPE_DEVICE void atomic_add(int32_t* address, int32_t value) {
  atomicAdd(address, value);
}

RPE_DEVICE uint32_t float_bits(float value) {
  return __float_as_uint(value);
}
RPE_DEVICE float bits_float(uint32_t bits) {
  return __uint_as_float(bits);
}

// Two floats rounded to nearest even, `low` in the low half.
RPE_DEVICE uint32_t pack_halves(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
RPE_DEVICE float2 unpack_halves(uint32_t packed) {
  return __half22float2(*reinterpret_cast<const __half2*>(&packed));
}

// 2^t by the special function unit: relative error 2^-22.5, results below the smallest normal number are 0.
RPE_DEVICE float exp2_approximate(float t) {
  float value;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(t));
  return value;
}

// The thread block's dynamic shared memory, aligned to 128 bytes.
RPE_DEVICE char* shared_memory() {
  extern __shared__ __align__(128) char memory[];
  return memory;
}
template <class T>
RPE_DEVICE T shared_load(const T* address) {
  return *address;
}
template <class T>
RPE_DEVICE void shared_store(T* address, T value) {
  *address = value;
}

RPE_DEVICE uint32_t shared_address(const void* pointer) {
  return uint32_t(__cvta_generic_to_shared(pointer));
}

// 16 bytes from global to shared memory, past the registers; zeros where not `inside`. Both addresses are multiples of 16.
// Visible to this thread after `copy_async_wait`, to others after a barrier behind that.
RPE_DEVICE void copy_async_16(void* shared, const void* global, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(inside ? 16 : 0)
               : "memory");
}
// 4 bytes, likewise; addresses are multiples of 4.
RPE_DEVICE void copy_async_4(void* shared, const void* global, bool inside) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(inside ? 4 : 0)
               : "memory");
}
RPE_DEVICE void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until at most `kPending` of this thread's committed groups are unfinished.
template <int kPending>
RPE_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// 8 x 8 matrices of 16-bit values; lane l brings the address of row l % 8 of matrix l / 8 (x2: lanes 0 to 15). Register k
// of lane l receives elements 2 (l % 4) and the next of row l / 4 of matrix k; `_transposed`: of its column l / 4.
RPE_DEVICE void ldmatrix_x4(uint32_t (&matrix)[4], const Half* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrix[0]), "=r"(matrix[1]), "=r"(matrix[2]), "=r"(matrix[3])
               : "r"(shared_address(row))
               : "memory");
}
RPE_DEVICE void ldmatrix_x4_transposed(uint32_t (&matrix)[4], const Half* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrix[0]), "=r"(matrix[1]), "=r"(matrix[2]), "=r"(matrix[3])
               : "r"(shared_address(row))
               : "memory");
}
RPE_DEVICE void ldmatrix_x2(uint32_t (&matrix)[2], const Half* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(matrix[0]), "=r"(matrix[1])
               : "r"(shared_address(row))
               : "memory");
}
RPE_DEVICE void ldmatrix_x2_transposed(uint32_t (&matrix)[2], const Half* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(matrix[0]), "=r"(matrix[1])
               : "r"(shared_address(row))
               : "memory");
}

// c [16 x 8] += a [16 x 16] b [16 x 8], float16 operands, float32 sums; fragments as the PTX manual lays them out
// (m16n8k16, row.col). Lane l holds c[0], c[1]: row l / 4, columns 2 (l % 4) and the next; c[2], c[3]: row l / 4 + 8.
RPE_DEVICE void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// c [16 x 8] += a [16 x 8] b [8 x 8], likewise (m16n8k8).
RPE_DEVICE void mma_m16n8k8(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(b0));
}

// What the compiled code of a kernel takes of a multiprocessor.
struct Footprint {
  int registers;  // of one thread
  int spilled_bytes;
  int blocks_per_processor;
};
template <class Problem>
Footprint footprint_of(void (*kernel)(Problem), int threads, size_t shared_bytes) {
  cudaFuncAttributes attributes{};
  int blocks = 0;
  cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  if (error == cudaSuccess)
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
  if (error == cudaSuccess)
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared_bytes);
  if (error != cudaSuccess) {
    cudaGetLastError();  // it is reported here, and not by whoever looks next
    throw std::runtime_error(std::string("rpe_ops: no facts about the kernels on this GPU: ") +
                             cudaGetErrorString(error));
  }
  return {attributes.numRegs, int(attributes.localSizeBytes), blocks};
}

// Host side. Errors are CUDA's own, asked for by the caller with cudaGetLastError after the last launch.
template <class Problem>
void launch(void (*kernel)(Problem), Grid grid, int threads, size_t shared_bytes, Stream stream,
            const Problem& problem) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared_bytes > 48 * 1024) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
  }
  kernel<<<dim3(grid.x, grid.y, grid.z), threads, shared_bytes, stream>>>(problem);
}
inline void fill_zero(void* memory, size_t bytes, Stream stream) {
  if (bytes > 0) cudaMemsetAsync(memory, 0, bytes, stream);
}

}  // namespace cuda
}  // namespace rpe

#endif
