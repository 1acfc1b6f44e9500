// The emulation of a thread block: its primitives against their definitions, and every error that it promises to find.
#include "cuda/device.cuh"
#include "testing.h"

#include <algorithm>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using rpe::cuda::Grid;
using rpe::cuda::Half;

std::string last_error;

// What `launch` reports, or "" where it has nothing to say.
template <class Problem>
std::string error_of(void (*kernel)(Problem), Grid grid, int threads, size_t shared_bytes, const Problem& problem) {
  last_error.clear();
  rpe::cuda::launch(kernel, grid, threads, shared_bytes, nullptr, problem);
  return last_error;
}

bool contains(const std::string& text, const char* part) {
  if (text.find(part) != std::string::npos) return true;
  std::printf("message: \"%s\"\n", text.c_str());
  return false;
}

uint16_t bits_of(float value) {
  return uint16_t(rpe::cuda::pack_halves(value, 0.0f));
}
float value_of(uint16_t bits) {
  return rpe::cuda::unpack_halves(bits).x;
}

// Indices, launches, order.

struct Indices {
  std::vector<int>* visits;
  std::vector<int>* order;
};

RPE_KERNEL(64, 1) count_visits(Indices problem) {
  const Grid block = rpe::cuda::block_index(), grid = rpe::cuda::grid_size();
  const int index = int((block.z * grid.y + block.y) * grid.x + block.x) * 64 + rpe::cuda::thread_index();
  ++(*problem.visits)[size_t(index)];
  rpe::cuda::barrier();
  problem.order->push_back(index);
}

std::vector<int> order_of_visits(uint64_t seed) {
  simt::shuffle_threads(seed);
  std::vector<int> visits(2 * 3 * 4 * 64), order;
  CHECK(error_of(count_visits, {2, 3, 4}, 64, 0, Indices{&visits, &order}) == "");
  CHECK(visits == std::vector<int>(visits.size(), 1));
  simt::shuffle_threads(0);
  return order;
}

void check_launch() {
  testing::context() = "launch";
  const std::vector<int> first = order_of_visits(1);
  CHECK(first == order_of_visits(1));
  CHECK(first != order_of_visits(2));
  std::vector<int> in_order = order_of_visits(0);
  CHECK(in_order != first);
  for (size_t begin = 0; begin < in_order.size(); begin += 64) {
    CHECK(*std::min_element(&in_order[begin], &in_order[begin] + 64) == int(begin));
  }
  std::vector<int> visits, order;
  CHECK(error_of(count_visits, {0, 3, 4}, 64, 0, Indices{&visits, &order}) == "");
  CHECK(contains(error_of(count_visits, {1, 1, 1}, 48, 0, Indices{&visits, &order}), "48 threads per block"));
  CHECK(contains(error_of(count_visits, {1, 1, 1}, 64, 1 << 20, Indices{&visits, &order}), "shared memory"));
}

// Numbers.

void check_numbers() {
  testing::context() = "numbers";
  using namespace rpe::cuda;
  CHECK(bits_of(1.0f) == 0x3c00);
  CHECK(bits_of(2049.0f) == bits_of(2048.0f));
  CHECK(bits_of(2051.0f) == bits_of(2052.0f));
  CHECK(bits_of(1e6f) == 0x7c00);
  CHECK(pack_halves(1.0f, -2.0f) == 0xc0003c00u);
  CHECK(unpack_halves(0xc0003c00u).x == 1.0f && unpack_halves(0xc0003c00u).y == -2.0f);
  CHECK(bits_float(float_bits(-0.1f)) == -0.1f);
  CHECK(exp2_approximate(3.0f) == 8.0f);
  CHECK(exp2_approximate(-126.0f) == 0x1p-126f);
  CHECK(exp2_approximate(-126.5f) == 0.0f);
  CHECK(exp2_approximate(-INFINITY) == 0.0f);
  uint32_t largest = 5;
  atomic_max(&largest, 3);
  CHECK(largest == 5);
  atomic_max(&largest, 0x80000000u);
  CHECK(largest == 0x80000000u);
  int32_t sum = 5;
  atomic_add(&sum, -7);
  CHECK(sum == -2);
  atomic_min(&sum, 4);
  CHECK(sum == -2);
  atomic_min(&sum, -9);
  CHECK(sum == -9);
  fill_zero(&sum, sizeof(sum), nullptr);
  CHECK(sum == 0);
}

// Warps.

struct Shuffles {
  int* moved;
  double* summed;
  int* found;
};

RPE_KERNEL(64, 1) shuffle_values(Shuffles problem) {
  const int thread = rpe::cuda::thread_index();
  problem.moved[thread] = rpe::cuda::shuffle(thread, (thread + 5) % 32) + rpe::cuda::shuffle(1000 * thread, 3);
  double sum = thread;
  for (int mask = 16; mask > 0; mask /= 2) sum += rpe::cuda::shuffle_xor(sum, mask);
  problem.summed[thread] = sum;
  problem.found[thread] = rpe::cuda::any_in_warp(thread == 40);
}

void check_shuffles() {
  int moved[64], found[64];
  double summed[64];
  CHECK(error_of(shuffle_values, {1, 1, 1}, 64, 0, Shuffles{moved, summed, found}) == "");
  for (int thread = 0; thread < 64; ++thread) {
    const int warp = thread / 32 * 32;
    CHECK(moved[thread] == warp + (thread + 5) % 32 + 1000 * (warp + 3));
    CHECK(summed[thread] == 32 * warp + 496);
    CHECK(found[thread] == (thread >= 32));
  }
}

struct Products {
  const uint16_t *a, *b;  // [16 x depth], [depth x 8], row after row
  const float* start;     // [16 x 8]
  float* result;
  int depth;
};

// The fragments as the tables of the PTX manual give them, element by element.
RPE_KERNEL(32, 1) multiply_by_table(Products problem) {
  const int lane = rpe::cuda::thread_index(), group = lane >> 2, in_group = lane % 4;
  uint32_t a[4] = {}, b[2] = {};
  for (int i = 0; i < problem.depth / 2; ++i) {
    const int row = problem.depth == 8 ? (i < 2 ? group : group + 8) : (i < 2 || (i >= 4 && i < 6) ? group : group + 8);
    const int column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
    a[i / 2] |= uint32_t(problem.a[row * problem.depth + column]) << 16 * (i % 2);
  }
  for (int i = 0; i < problem.depth / 4; ++i) {
    const int row = in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0);
    b[i / 2] |= uint32_t(problem.b[row * 8 + group]) << 16 * (i % 2);
  }
  float c[4];
  const auto at = [&](int i) { return (i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1); };
  for (int i = 0; i < 4; ++i) c[i] = problem.start[at(i)];
  if (problem.depth == 16) {
    rpe::cuda::mma_m16n8k16(c, a, b[0], b[1]);
  } else {
    rpe::cuda::mma_m16n8k8(c, a[0], a[1], b[0]);
  }
  for (int i = 0; i < 4; ++i) problem.result[at(i)] = c[i];
}

// The same by ldmatrix, from both operands as they stand in memory.
RPE_KERNEL(32, 1) multiply_by_ldmatrix(Products problem) {
  using namespace rpe::cuda;
  const int lane = thread_index();
  Half* a = reinterpret_cast<Half*>(shared_memory());
  Half* b = a + 16 * problem.depth;
  for (int i = 2 * lane; i < 16 * problem.depth; i += 64) copy_async_4(a + i, problem.a + i, true);
  for (int i = 8 * lane; i < 8 * problem.depth; i += 256) copy_async_16(b + i, problem.b + i, true);
  copy_async_commit();
  copy_async_wait<0>();
  barrier();
  uint32_t left[4], right[2];
  float c[4];
  const auto at = [&](int i) { return (lane / 4 + i / 2 * 8) * 8 + 2 * (lane % 4) + i % 2; };
  for (int i = 0; i < 4; ++i) c[i] = problem.start[at(i)];
  if (problem.depth == 16) {
    ldmatrix_x4(left, a + lane % 16 * 16 + lane / 16 * 8);
    ldmatrix_x2_transposed(right, b + lane % 16 * 8);
    mma_m16n8k16(c, left, right[0], right[1]);
  } else {
    uint32_t halves[2];
    ldmatrix_x2(halves, a + lane % 16 * 8);
    ldmatrix_x2_transposed(right, b + lane % 8 * 8);
    mma_m16n8k8(c, halves[0], halves[1], right[0]);
  }
  for (int i = 0; i < 4; ++i) problem.result[at(i)] = c[i];
}

void check_products(int depth, bool exact) {
  std::mt19937 generator(7);
  std::uniform_real_distribution<float> uniform(-2.0f, 2.0f);
  const auto draw = [&] { return exact ? std::round(4 * uniform(generator)) : uniform(generator); };
  // The address sanitizer's heap aligns to 16.
  std::vector<uint16_t> a(size_t(16 * depth)), b(size_t(depth * 8));
  std::vector<float> start(16 * 8);
  for (uint16_t& value : a) value = bits_of(draw());
  for (uint16_t& value : b) value = bits_of(draw());
  for (float& value : start) value = draw();
  a[3] = 1;  // a subnormal number
  for (const auto kernel : {multiply_by_table, multiply_by_ldmatrix}) {
    std::vector<float> result(16 * 8);
    CHECK(error_of(kernel, {1, 1, 1}, 32, size_t(48 * depth),
                   Products{a.data(), b.data(), start.data(), result.data(), depth}) == "");
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        double sum = start[size_t(row * 8 + column)];
        for (int k = 0; k < depth; ++k) {
          sum += double(value_of(a[size_t(row * depth + k)])) * double(value_of(b[size_t(k * 8 + column)]));
        }
        CHECK_NEAR(result[size_t(row * 8 + column)], sum, 1e-5);
      }
    }
  }
}

struct Matrices {
  uint32_t* results;  // [12 x 32]: four registers of x4, of x4 transposed, two of x2, of x2 transposed
};

RPE_KERNEL(32, 1) load_all_matrices(Matrices problem) {
  using namespace rpe::cuda;
  const int lane = thread_index();
  Half* rows = reinterpret_cast<Half*>(shared_memory());
  // Element (row, column) of matrix m is 64 m + 8 row + column; rows lie 24 elements apart.
  for (int column = 0; column < 8; ++column) {
    shared_store(reinterpret_cast<uint16_t*>(rows + 24 * lane + column), uint16_t(8 * lane + column));
  }
  barrier();
  uint32_t four[4], two[2];
  ldmatrix_x4(four, rows + 24 * lane);
  for (int k = 0; k < 4; ++k) problem.results[32 * k + lane] = four[k];
  ldmatrix_x4_transposed(four, rows + 24 * lane);
  for (int k = 0; k < 4; ++k) problem.results[32 * (4 + k) + lane] = four[k];
  // The upper lanes' addresses do not matter.
  const Half* row = lane < 16 ? rows + 24 * lane : nullptr;
  ldmatrix_x2(two, row);
  for (int k = 0; k < 2; ++k) problem.results[32 * (8 + k) + lane] = two[k];
  ldmatrix_x2_transposed(two, row);
  for (int k = 0; k < 2; ++k) problem.results[32 * (10 + k) + lane] = two[k];
}

void check_matrices() {
  uint32_t results[12 * 32];
  CHECK(error_of(load_all_matrices, {1, 1, 1}, 32, 32 * 24 * 2, Matrices{results}) == "");
  for (int k = 0; k < 12; ++k) {
    const bool transposed = (k >= 4 && k < 8) || k >= 10;
    const uint32_t base = uint32_t(64 * (k < 8 ? k % 4 : k % 2));
    for (uint32_t lane = 0; lane < 32; ++lane) {
      const uint32_t minor = 2 * (lane % 4), major = lane / 4;
      const uint32_t low = transposed ? 8 * minor + major : 8 * major + minor;
      const uint32_t high = transposed ? 8 * (minor + 1) + major : 8 * major + minor + 1;
      CHECK(results[32 * uint32_t(k) + lane] == ((base + low) | (base + high) << 16));
    }
  }
}

// Copies.

struct Stages {
  const float* input;
  float* output;
  int count;  // of tiles of 512 floats
  int length;
};

// Every tile is reversed on its way through one of three buffers, two tiles ahead of their use.
RPE_KERNEL(128, 1) reverse_tiles(Stages problem) {
  using namespace rpe::cuda;
  const int thread = thread_index();
  float* buffers = reinterpret_cast<float*>(shared_memory());
  const auto start = [&](int tile) {
    const int first = tile * 512 + 4 * thread;
    const bool inside = tile < problem.count && first < problem.length;
    copy_async_16(buffers + tile % 3 * 512 + 4 * thread, inside ? problem.input + first : problem.input, inside);
    copy_async_commit();
  };
  start(0);
  start(1);
  for (int tile = 0; tile < problem.count; ++tile) {
    copy_async_wait<1>();
    barrier();
    start(tile + 2);
    for (int i = thread; i < 512; i += 128) {
      problem.output[tile * 512 + i] = shared_load(buffers + tile % 3 * 512 + 511 - i);
    }
  }
}

void check_copies() {
  constexpr int count = 7, length = count * 512 - 40;
  std::vector<float> input(length), output(count * 512);
  for (size_t i = 0; i < input.size(); ++i) input[i] = float(i + 1);
  CHECK(error_of(reverse_tiles, {1, 1, 1}, 128, 3 * 2048, Stages{input.data(), output.data(), count, length}) == "");
  for (int i = 0; i < count * 512; ++i) {
    const int source = i / 512 * 512 + 511 - i % 512;
    CHECK(output[size_t(i)] == (source < length ? float(source + 1) : 0.0f));
  }
}

// Widths of shared memory accesses; two-byte neighbours belong to different threads.
struct Widths {
  uint16_t* result;
};

RPE_KERNEL(32, 1) exchange_widths(Widths problem) {
  using namespace rpe::cuda;
  const int thread = thread_index();
  uint16_t* small = reinterpret_cast<uint16_t*>(shared_memory());
  shared_store(small + thread, uint16_t(3 * thread));
  barrier();
  if (thread == 0) {
    const uint4 wide = shared_load(reinterpret_cast<const uint4*>(small));
    const float2 pair = shared_load(reinterpret_cast<const float2*>(small + 8));
    shared_store(reinterpret_cast<uint4*>(small + 32), wide);
    shared_store(reinterpret_cast<float2*>(small + 40), pair);
  }
  barrier();
  problem.result[thread] = thread < 12 ? shared_load(small + 32 + thread) : uint16_t(0);
}

void check_widths() {
  uint16_t result[32];
  CHECK(error_of(exchange_widths, {1, 1, 1}, 32, 96, Widths{result}) == "");
  for (int i = 0; i < 12; ++i) CHECK(result[i] == 3 * i);
}

// Errors. Each kernel is right up to the one mistake that its case asks for.

struct Mistake {
  int which;
  const float* input;
};
constexpr int kMistakes = 24;

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
  CHECK(contains(error, ("block (0, 1, 0), thread 0: test_simt.cpp:" + std::to_string(kReadLine) + ": ").c_str()));
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
  simt::on_error([](const std::string& message) { last_error = message; });
  check_launch();
  check_numbers();
  check_place();
  for (uint64_t seed = 0; seed < 4; ++seed) {
    testing::context() = "seed " + std::to_string(seed);
    simt::shuffle_threads(seed);
    check_shuffles();
    for (int depth = 8; depth <= 16; depth += 8) {
      check_products(depth, true);
      check_products(depth, false);
    }
    check_matrices();
    check_copies();
    check_widths();
  }
  simt::shuffle_threads(0);
  check_mistakes();
  check_deaths();
  return testing::finish();
}
