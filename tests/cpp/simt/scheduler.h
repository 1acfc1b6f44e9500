// The threads of one thread block after another: who runs, and who waits where.
#pragma once

#include "simt.h"

namespace simt {

constexpr int kMaxThreads = 1024;

// Until all thread blocks have run, or one has failed.
void run_blocks(void (*call)(const void* argument), const void* argument, rpe::cuda::Grid grid, int threads,
                size_t shared_bytes);

}  // namespace simt
