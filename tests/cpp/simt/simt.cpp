// Launches: what CUDA would refuse, and who hears of errors.
#include "simt.h"

#include "errors.h"
#include "scheduler.h"
#include "shared_memory.h"

namespace simt {

Current current;

namespace {

bool running = false;

// Why CUDA would not start this; "" where it would.
std::string refusal(rpe::cuda::Grid grid, int threads, size_t shared_bytes) {
  if (grid.y > 65535 || grid.z > 65535 || grid.x > 0x7fffffff) return "the grid is larger than CUDA allows";
  if (shared_bytes > kMaxSharedBytes) {
    return std::to_string(shared_bytes) + " bytes of shared memory: more than " + std::to_string(kMaxSharedBytes);
  }
  if (threads <= 0 || threads > kMaxThreads || threads % kLanes != 0) {
    return std::to_string(threads) + " threads per block: not whole warps, or more than " + std::to_string(kMaxThreads);
  }
  return running ? "a kernel cannot launch a kernel" : "";
}

}  // namespace

void run_kernel(void (*call)(const void*), const void* argument, rpe::cuda::Grid grid, int threads,
                size_t shared_bytes) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  count_launch();
  const std::string reason = refusal(grid, threads, shared_bytes);
  if (!reason.empty()) {
    refuse_launch(reason);
    return;
  }
  running = true;
  run_blocks(call, argument, grid, threads, shared_bytes);
  running = false;
  if (launch_failed()) call_handler();
}

}  // namespace simt
