// The shared memory of the thread block that runs; its threads reach it by the functions in simt.h.
#pragma once

#include <cstddef>

namespace simt {

constexpr size_t kMaxSharedBytes = 227 * 1024;

// Before a thread block, and after it: copies that it never waited for do not count.
void start_shared_memory(size_t bytes, int threads);
void finish_shared_memory();

// All threads are at a barrier.
void order_accesses();

}  // namespace simt
