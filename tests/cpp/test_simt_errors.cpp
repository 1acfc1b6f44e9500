// Every error that the emulated device promises to find.
#include "cuda/device.cuh"
#include "launch_errors.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using rpe::cuda::Grid;
using rpe::cuda::Half;
using testing::contains;
using testing::error_of;

struct Mistake {
  int which;
  const float* input;
};
constexpr int kMistakes = 24;

// Right up to the one mistake that its case asks for.
RPE_KERNEL(64, 1) make_mistake(Mistake problem) {
  using namespace rpe::cuda;
  const int thread = thread_index(), which = problem.which;
  float* values = reinterpret_cast<float*>(shared_memory());
  Half* halves = reinterpret_cast<Half*>(values);
  float* mine = values + 4 * thread;
  const float* source = problem.input + 4 * thread;
  const float* next = values + (4 * thread + 4) % 256;
  uint32_t matrix[4];
  if (which >= 0 && which <= 4) {  // a staged copy and its reading by the neighbour
    copy_async_16(mine, source, true);
    if (which != 1) copy_async_commit();
    if (which != 0) copy_async_wait<0>();
    if (which != 2) barrier();
    if (which == 0 || which == 1) shared_load(mine);
    shared_load(next);
    if (which != 3) barrier();
    if (which == 3) copy_async_16(mine, source, true);
    if (which == 4) shared_store(mine + 64 * 4, 0.0f);
  }
  if (which == 5) shared_load(mine);
  if (which == 6 || which == 7) {  // a store and its reading by the neighbour
    shared_store(mine, 1.0f);
    if (which != 6) barrier();
    if (thread != 63) shared_load(next);
    if (which == 7) shared_store(mine, 2.0f);
  }
  if (which == 8) shared_store(values + thread / 2, 1.0f);
  if (which == 9 && thread != 5) barrier();
  if (which == 10) {
    if (thread < 32)
      barrier();
    else
      barrier();
  }
  if (which == 11) {
    if (thread % 32 == 3)
      barrier();
    else
      shuffle(thread, 0);
  }
  if (which == 12) {
    if (thread % 2 == 0)
      any_in_warp(true);
    else
      shuffle(thread, 0);
  }
  if (which == 13 && thread != 40) shuffle(thread, 0);
  if (which == 14) shared_load(values - 4);
  if (which == 15) copy_async_16(mine + 1, source, true);
  if (which == 16) copy_async_16(mine, source + 1, true);
  if (which == 17 || which == 18) {
    if (thread < 32) shared_store(reinterpret_cast<uint4*>(mine), uint4());
    if (which == 18) barrier();
    if (thread < 32) ldmatrix_x4(matrix, halves + 8 * (thread % 32) + (which == 18 ? 4 : 8));
  }
  if (which == 19) shared_store(reinterpret_cast<float*>(shared_memory() + 4 * thread + 2), 1.0f);
  if (which == 20) shared_load(source);
  if (which == 21) {
    copy_async_4(mine, source, true);
    shared_store(mine, 1.0f);
  }
  if (which == 22) {
    shared_store(mine, 1.0f);
    if (thread > 0) shared_load(mine - 4);
  }
  // What an earlier thread block left does not count as written.
  if (which == 23) {
    if (block_index().x == 1) shared_load(mine);
    shared_store(mine, 1.0f);
  }
}

void check_mistakes() {
  testing::context() = "mistakes";
  const char* const expected[kMistakes][2] = {
      {"shared_load of shared bytes [1008, 1012)", "copy of thread 63 is pending"},
      {"shared_load of shared bytes [1008, 1012)", "copy of thread 63 is pending"},
      {"shared_load of shared bytes [16, 20)", "which nothing wrote"},
      {"copy_async_16 of shared bytes [", "read since the last barrier"},
      {"shared_store outside of the 1024 bytes", "4 bytes at 1"},
      {"shared_load of shared bytes [0, 4)", "which nothing wrote"},
      {"shared_load of shared bytes [16, 20)", "which nothing wrote"},
      {"shared_store of shared bytes [", "read since the last barrier"},
      {"thread 1: ", "shared_store of shared bytes [0, 4) which thread 0 wrote since the last barrier"},
      {"divergent barrier", "thread 5 exited"},
      {"divergent barrier", "is at another one"},
      {"divergent barrier", "at shuffle"},
      {"divergent warp", "is at any_in_warp"},
      {"divergent warp", "31 threads (first: 32) at shuffle"},
      {"shared_load outside of the 1024 bytes", "4 bytes at -16"},
      {"copy_async_16 of shared bytes [4, 20)", "misaligned"},
      {"copy_async_16 from a misaligned address", "16"},
      {"ldmatrix_x4 of shared bytes [16, 32)", "which nothing wrote"},
      {"ldmatrix_x4 of shared bytes [", "misaligned"},
      {"shared_store of shared bytes [2, 6)", "misaligned"},
      {"shared_load outside of", ""},
      {"shared_store of shared bytes [0, 4)", "copy of thread 0 is pending"},
      {"shared_load of shared bytes [0, 4)", "which thread 0 wrote since the last barrier"},
      {"thread 0: ", "shared_load of shared bytes [0, 4) which nothing wrote"},
  };
  std::vector<float> input(64 * 4 + 4, 1.0f);
  for (int which = 0; which < kMistakes; ++which) {
    const Mistake problem = {which, input.data()};
    const std::string error = error_of(make_mistake, {2, 1, 1}, 64, 1024, problem);
    CHECK(contains(error, which == 23 ? "block (1, 0, 0), thread " : "block (0, 0, 0), thread "));
    CHECK(contains(error, expected[which][0]));
    CHECK(contains(error, expected[which][1]));
    // A launch after an error finds nothing of it.
    CHECK(error_of(make_mistake, {2, 1, 1}, 64, 1024, Mistake{-1, nullptr}) == "");
    for (uint64_t seed = 1; seed <= 5; ++seed) {
      simt::shuffle_threads(seed);
      CHECK(error_of(make_mistake, {2, 1, 1}, 64, 1024, problem) != "");
      simt::shuffle_threads(0);
    }
  }
}

struct Nothing {};

constexpr int kReadLine = __LINE__ + 3;
RPE_KERNEL(32, 1) read_outside(Nothing) {
  const Grid block = rpe::cuda::block_index();
  if (block.y == 1) rpe::cuda::shared_load(reinterpret_cast<const int*>(rpe::cuda::shared_memory()));
}

// An error names the launch, the thread block and the line of the kernel; the blocks behind it do not run.
void check_place() {
  testing::context() = "place";
  const std::string error = error_of(read_outside, {2, 3, 1}, 32, 0, Nothing());
  CHECK(
      contains(error, ("block (0, 1, 0), thread 0: test_simt_errors.cpp:" + std::to_string(kReadLine) + ": ").c_str()));
  const int first = std::atoi(error.c_str() + std::strlen("simt: launch "));
  const int second =
      std::atoi(error_of(read_outside, {2, 3, 1}, 32, 0, Nothing()).c_str() + std::strlen("simt: launch "));
  CHECK(first > 0 && second == first + 1);
}

RPE_KERNEL(32, 1) read_past_the_primitives(Nothing) {
  rpe::cuda::shared_store(reinterpret_cast<Half*>(rpe::cuda::shared_memory()) + rpe::cuda::thread_index(), Half(1));
  rpe::cuda::barrier();
  (void)*static_cast<volatile char*>(rpe::cuda::shared_memory());
}

template <class Run>
bool dies(const Run& run) {
  const pid_t child = fork();
  if (child == 0) {
    const rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    if (std::freopen("/dev/null", "w", stderr) == nullptr) _exit(0);
    run();
    _exit(0);
  }
  int status = 0;
  return waitpid(child, &status, 0) == child && status != 0;
}

// Without a handler, and at an access of shared memory by plain C++.
void check_deaths() {
  testing::context() = "deaths";
  std::fflush(stdout);
  CHECK(!dies([] { error_of(read_outside, {1, 1, 1}, 32, 0, Nothing()); }));
  CHECK(dies([] {
    simt::on_error(nullptr);
    error_of(read_outside, {1, 2, 1}, 32, 0, Nothing());
  }));
  CHECK(dies([] { error_of(read_past_the_primitives, {1, 1, 1}, 32, 64, Nothing()); }));
}

}  // namespace

int main() {
  testing::keep_errors();
  check_place();
  check_mistakes();
  check_deaths();
  return testing::finish();
}
