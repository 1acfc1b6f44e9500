// Launches on the emulated device, and what it says of them.
#pragma once

#include "simt.h"
#include "testing.h"

namespace testing {

inline std::string& last_error() {
  static std::string message;
  return message;
}

inline void keep_errors() {
  simt::on_error([](const std::string& message) { last_error() = message; });
}

// What `launch` reports, or "" where it has nothing to say.
template <class Problem>
std::string error_of(void (*kernel)(Problem), rpe::cuda::Grid grid, int threads, size_t shared_bytes,
                     const Problem& problem) {
  last_error().clear();
  rpe::cuda::launch(kernel, grid, threads, shared_bytes, nullptr, problem);
  return last_error();
}

inline bool contains(const std::string& text, const char* part) {
  if (text.find(part) != std::string::npos) return true;
  std::printf("message: \"%s\"\n", text.c_str());
  return false;
}

// Calls body() for a few orders of threads.
template <class Body>
void for_each_order(const Body& body) {
  for (uint64_t seed = 0; seed < 4; ++seed) {
    context() = "seed " + std::to_string(seed);
    simt::shuffle_threads(seed);
    body();
  }
  simt::shuffle_threads(0);
}

}  // namespace testing
