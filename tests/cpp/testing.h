// What every C++ test uses: checks that count, random rows, thread pools, and a loop over the CPU's SIMD variants.
#pragma once

#include "launch/pool.h"
#include "launch/select.h"

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace testing {

inline int& failures() {
  static int count = 0;
  return count;
}

inline std::string& context() {
  static std::string text;
  return text;
}

#define CHECK(CONDITION)                                                                                   \
  do {                                                                                                     \
    if (!(CONDITION) && ++testing::failures() <= 20)                                                       \
      std::printf("%s:%d: [%s] failed: %s\n", __FILE__, __LINE__, testing::context().c_str(), #CONDITION); \
  } while (0)

#define CHECK_NEAR(VALUE, EXPECTED, TOLERANCE)                                                         \
  do {                                                                                                 \
    const double value_ = double(VALUE), expected_ = double(EXPECTED), tolerance_ = double(TOLERANCE); \
    if (!(std::fabs(value_ - expected_) <= tolerance_) && ++testing::failures() <= 20)                 \
      std::printf("%s:%d: [%s] %s = %.9g, expected %.9g within %.3g\n", __FILE__, __LINE__,            \
                  testing::context().c_str(), #VALUE, value_, expected_, tolerance_);                  \
  } while (0)

inline int finish() {
  if (failures() > 0) std::printf("%d checks failed\n", failures());
  return failures() == 0 ? 0 : 1;
}

// Calls body() for every SIMD variant this CPU can run. avx512_bf16 has the kernels of avx512 and some for bfloat16, which
// tests of those select.
template <class Body>
void for_each_variant(const Body& body) {
  for (const std::string& variant : rpe::simd_variants()) {
    if (variant == "avx512_bf16") continue;
    CHECK(rpe::simd_select(variant));
    context() = variant;
    body();
  }
  CHECK(rpe::simd_select("auto"));
}

// `count` threads; uneven pauses shuffle which of them takes which task. Memory comes filled with NaN patterns.
class ThreadPool : public rpe::TaskPool {
 public:
  explicit ThreadPool(int64_t count, bool uneven = false) : count_(count), uneven_(uneven) {}

  void run(int64_t count, const std::function<void(int64_t)>& task) override {
    std::atomic<int64_t> next{0};
    const auto work = [&](int64_t index) {
      current() = index;
      for (int64_t i = next++; i < count; i = next++) {
        if (uneven_ && (i * 7 + index) % 5 == 0) std::this_thread::yield();
        task(i);
      }
      current() = 0;
    };
    std::vector<std::thread> threads;
    for (int64_t index = 1; index < count_; ++index) threads.emplace_back(work, index);
    work(0);
    for (std::thread& thread : threads) thread.join();
  }
  int64_t num_threads() const override { return count_; }
  int64_t thread_index() const override { return current(); }
  std::shared_ptr<void> allocate(size_t bytes) override {
    // Exact size at a multiple of 64, so that the address sanitizer sees the first byte outside.
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, bytes > 0 ? bytes : 1) != 0) std::abort();
    std::memset(memory, 0xff, bytes);
    return std::shared_ptr<void>(memory, std::free);
  }

 private:
  static int64_t& current() {
    static thread_local int64_t index = 0;
    return index;
  }
  int64_t count_;
  bool uneven_;
};

// Unit rows; about `zero_share` of them are zero.
template <class T>
std::vector<T> unit_rows(int64_t count, int64_t dim, unsigned seed, double zero_share = 0.0) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform;
  std::vector<T> rows(size_t(count * dim));
  for (int64_t i = 0; i < count; ++i) {
    std::vector<double> row(static_cast<size_t>(dim));
    double squared = 0;
    for (double& value : row) {
      value = normal(generator);
      squared += value * value;
    }
    const double scale = uniform(generator) < zero_share ? 0.0 : 1.0 / std::sqrt(squared);
    for (int64_t d = 0; d < dim; ++d) rows[size_t(i * dim + d)] = T(row[size_t(d)] * scale);
  }
  return rows;
}

template <class T>
double dot(const T* one, const T* other, int64_t dim) {
  double sum = 0;
  for (int64_t d = 0; d < dim; ++d) sum += double(one[d]) * double(other[d]);
  return sum;
}

inline std::vector<int64_t> offsets_of(const std::vector<int64_t>& sizes) {
  std::vector<int64_t> offsets{0};
  for (int64_t size : sizes) offsets.push_back(offsets.back() + size);
  return offsets;
}

// Widths of rows: those that the command line names, for checkers under which all of them would take too long, else
// `all`.
inline std::vector<int64_t> widths(int argc, char** argv, const std::vector<int64_t>& all) {
  std::vector<int64_t> named;
  for (int k = 1; k < argc; ++k) named.push_back(std::atoll(argv[k]));
  return named.empty() ? all : named;
}

template <class T>
double largest(const std::vector<T>& values) {
  double result = 0;
  for (T value : values) result = std::max(result, std::fabs(double(value)));
  return result;
}

template <class T>
constexpr double tolerance() {
  return sizeof(T) == 4 ? 2e-5 : 1e-12;
}

template <class T>
bool same_bits(const std::vector<T>& one, const std::vector<T>& other) {
  return one.size() == other.size() &&
         (one.empty() || std::memcmp(one.data(), other.data(), one.size() * sizeof(T)) == 0);
}

}  // namespace testing
