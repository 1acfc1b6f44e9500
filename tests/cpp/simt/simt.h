// A GPU thread block on the host: what csrc/cuda/device.cuh offers to kernels, without a GPU.
//
// Every thread of a block is a fiber; blocks run one after another. Lanes of a warp meet at every warp collective, and
// the last to arrive computes for all. What hardware leaves undefined is an error here: divergence, deadlock, accesses
// outside of shared memory, reads of what was not written there or is still being copied, and two threads at the same
// bytes without a barrier in between, one of them writing.
// One host thread at a time may launch.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>

#define RPE_DEVICE [[maybe_unused]] static inline
#define RPE_DEVICE_MEMBER inline
#define RPE_KERNEL(THREADS, BLOCKS) static void

// CUDA's vectors, with its alignment.
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

namespace rpe {
namespace cuda {

using Half = _Float16;
using Stream = void*;

struct Grid {
  unsigned x = 1, y = 1, z = 1;
};

}  // namespace cuda
}  // namespace rpe

namespace simt {

// Without a handler an error is printed on stderr and the program aborts. With one, the launch is given up and the
// handler is called by `launch`, which then returns.
using ErrorHandler = std::function<void(const std::string& message)>;
void on_error(ErrorHandler handler);

// Another order of thread blocks, and of threads at every switch; 0: ascending order.
void shuffle_threads(uint64_t seed);

// The line of a kernel that calls a primitive; lanes that meet have to come from the same one.
struct Where {
  const char* file;
  int line;
  static constexpr Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

constexpr int kLanes = 32;

// The thread that runs now.
struct Current {
  int thread = 0;
  rpe::cuda::Grid block, grid;
  char* shared = nullptr;
};
extern Current current;

// The rest is called by the primitives only.

// `operands` has one entry per lane.
using Compute = void (*)(void* const* operands);
void meet_warp(const char* name, Compute compute, void* operand, Where where);
void meet_block(Where where);

// The addresses that `shared_memory` gives cannot be read or written by plain C++; these return where the bytes are.
const char* read_shared(const char* name, const void* address, size_t bytes, size_t alignment, Where where);
char* write_shared(const char* name, void* address, size_t bytes, size_t alignment, Where where);

void start_copy(const char* name, void* shared, const void* global, size_t bytes, bool inside, Where where);
void commit_copies();
void finish_copies(int pending);

void run_kernel(void (*call)(const void* argument), const void* argument, rpe::cuda::Grid grid, int threads,
                size_t shared_bytes);

[[noreturn]] void fail(const std::string& message, Where where);

template <class T>
struct ShuffleOperand {
  T value;
  int source;
  T result;
};

template <class T>
void compute_shuffle(void* const* operands) {
  const auto lane = [&](int index) { return static_cast<ShuffleOperand<T>*>(operands[index]); };
  for (int index = 0; index < kLanes; ++index) lane(index)->result = lane(lane(index)->source)->value;
}

inline void compute_any(void* const* operands) {
  bool any = false;
  for (int index = 0; index < kLanes; ++index) any = any || *static_cast<bool*>(operands[index]);
  for (int index = 0; index < kLanes; ++index) *static_cast<bool*>(operands[index]) = any;
}

template <int kMatrices, bool kTransposed>
void load_matrices(const char* name, uint32_t* result, const void* row, Where where);

struct ProductOperand {
  float* c;
  uint32_t a[4], b[2];
};
void compute_mma_k16(void* const* operands);
void compute_mma_k8(void* const* operands);

}  // namespace simt

namespace rpe {
namespace cuda {

RPE_DEVICE int thread_index() {
  return simt::current.thread;
}
RPE_DEVICE Grid block_index() {
  return simt::current.block;
}
RPE_DEVICE Grid grid_size() {
  return simt::current.grid;
}

RPE_DEVICE void barrier(simt::Where where = simt::Where::here()) {
  simt::meet_block(where);
}

template <class T>
RPE_DEVICE T shuffle(T value, int lane, simt::Where where = simt::Where::here()) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "__shfl_sync moves 4 or 8 bytes");
  simt::ShuffleOperand<T> operand = {value, lane & (simt::kLanes - 1), value};
  simt::meet_warp("shuffle", simt::compute_shuffle<T>, &operand, where);
  return operand.result;
}
template <class T>
RPE_DEVICE T shuffle_xor(T value, int mask, simt::Where where = simt::Where::here()) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "__shfl_xor_sync moves 4 or 8 bytes");
  if (mask < 0 || mask >= simt::kLanes) simt::fail("shuffle_xor by a mask outside of the warp", where);
  simt::ShuffleOperand<T> operand = {value, simt::current.thread % simt::kLanes ^ mask, value};
  simt::meet_warp("shuffle_xor", simt::compute_shuffle<T>, &operand, where);
  return operand.result;
}
RPE_DEVICE bool any_in_warp(bool value, simt::Where where = simt::Where::here()) {
  simt::meet_warp("any_in_warp", simt::compute_any, &value, where);
  return value;
}

RPE_DEVICE void atomic_max(uint32_t* address, uint32_t value) {
  if (*address < value) *address = value;
}
RPE_DEVICE void atomic_min(int32_t* address, int32_t value) {
  if (*address > value) *address = value;
}
RPE_DEVICE void atomic_add(int32_t* address, int32_t value) {
  *address = int32_t(uint32_t(*address) + uint32_t(value));
}

RPE_DEVICE uint32_t float_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
RPE_DEVICE float bits_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

RPE_DEVICE uint32_t pack_halves(float low, float high) {
  const Half halves[2] = {Half(low), Half(high)};
  uint32_t packed;
  std::memcpy(&packed, halves, sizeof(packed));
  return packed;
}
RPE_DEVICE float2 unpack_halves(uint32_t packed) {
  Half halves[2];
  std::memcpy(halves, &packed, sizeof(packed));
  return {float(halves[0]), float(halves[1])};
}

RPE_DEVICE float exp2_approximate(float t) {
  const float value = std::exp2(t);
  return value < 0x1p-126f ? 0.0f : value;
}

RPE_DEVICE char* shared_memory() {
  return simt::current.shared;
}
template <class T>
RPE_DEVICE T shared_load(const T* address, simt::Where where = simt::Where::here()) {
  static_assert(std::is_trivially_copyable<T>::value, "shared memory holds plain values");
  static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16, "one instruction's width");
  T value;
  std::memcpy(&value, simt::read_shared("shared_load", address, sizeof(T), alignof(T), where), sizeof(T));
  return value;
}
template <class T>
RPE_DEVICE void shared_store(T* address, T value, simt::Where where = simt::Where::here()) {
  static_assert(std::is_trivially_copyable<T>::value, "shared memory holds plain values");
  static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16, "one instruction's width");
  std::memcpy(simt::write_shared("shared_store", address, sizeof(T), alignof(T), where), &value, sizeof(T));
}

RPE_DEVICE uint32_t shared_address(const void* pointer) {
  return uint32_t(uintptr_t(pointer) - uintptr_t(simt::current.shared));
}

RPE_DEVICE void copy_async_16(void* shared, const void* global, bool inside, simt::Where where = simt::Where::here()) {
  simt::start_copy("copy_async_16", shared, global, 16, inside, where);
}
RPE_DEVICE void copy_async_4(void* shared, const void* global, bool inside, simt::Where where = simt::Where::here()) {
  simt::start_copy("copy_async_4", shared, global, 4, inside, where);
}
RPE_DEVICE void copy_async_commit() {
  simt::commit_copies();
}
template <int kPending>
RPE_DEVICE void copy_async_wait() {
  static_assert(kPending >= 0, "a count of groups");
  simt::finish_copies(kPending);
}

RPE_DEVICE void ldmatrix_x4(uint32_t (&matrix)[4], const Half* row, simt::Where where = simt::Where::here()) {
  simt::load_matrices<4, false>("ldmatrix_x4", matrix, row, where);
}
RPE_DEVICE void ldmatrix_x4_transposed(uint32_t (&matrix)[4], const Half* row,
                                       simt::Where where = simt::Where::here()) {
  simt::load_matrices<4, true>("ldmatrix_x4_transposed", matrix, row, where);
}
RPE_DEVICE void ldmatrix_x2(uint32_t (&matrix)[2], const Half* row, simt::Where where = simt::Where::here()) {
  simt::load_matrices<2, false>("ldmatrix_x2", matrix, row, where);
}
RPE_DEVICE void ldmatrix_x2_transposed(uint32_t (&matrix)[2], const Half* row,
                                       simt::Where where = simt::Where::here()) {
  simt::load_matrices<2, true>("ldmatrix_x2_transposed", matrix, row, where);
}

RPE_DEVICE void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                             simt::Where where = simt::Where::here()) {
  simt::ProductOperand operand = {c, {a[0], a[1], a[2], a[3]}, {b0, b1}};
  simt::meet_warp("mma_m16n8k16", simt::compute_mma_k16, &operand, where);
}
RPE_DEVICE void mma_m16n8k8(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b0,
                            simt::Where where = simt::Where::here()) {
  simt::ProductOperand operand = {c, {a0, a1, 0, 0}, {b0, 0}};
  simt::meet_warp("mma_m16n8k8", simt::compute_mma_k8, &operand, where);
}

// Known to nvcc alone: zeros.
struct Footprint {
  int registers;
  int spilled_bytes;
  int blocks_per_processor;
};
template <class Problem>
Footprint footprint_of(void (*)(Problem), int, size_t) {
  return {0, 0, 0};
}

template <class Problem>
void launch(void (*kernel)(Problem), Grid grid, int threads, size_t shared_bytes, Stream, const Problem& problem) {
  struct Argument {
    void (*kernel)(Problem);
    const Problem* problem;
  };
  const Argument argument = {kernel, &problem};
  const auto call = [](const void* memory) {
    const Argument& argument = *static_cast<const Argument*>(memory);
    argument.kernel(*argument.problem);
  };
  simt::run_kernel(call, &argument, grid, threads, shared_bytes);
}
inline void fill_zero(void* memory, size_t bytes, Stream) {
  if (bytes > 0) std::memset(memory, 0, bytes);
}

}  // namespace cuda
}  // namespace rpe
