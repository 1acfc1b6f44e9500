// The emulated device's launches, warps, shared memory and copies, against their definitions.
#include "cuda/device.cuh"
#include "launch_errors.h"

#include <algorithm>

namespace {

using rpe::cuda::Grid;
using testing::contains;
using testing::error_of;

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

void check_atomics() {
  testing::context() = "atomics";
  using namespace rpe::cuda;
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

}  // namespace

int main() {
  testing::keep_errors();
  check_launch();
  check_atomics();
  testing::for_each_order([] {
    check_shuffles();
    check_copies();
    check_widths();
  });
  return testing::finish();
}
