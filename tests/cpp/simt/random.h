// Orders to try, the same for the same seed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace simt {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 0x632be59bd9b4e019u) {}
  uint32_t below(uint32_t count) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return uint32_t((state_ >> 32) * count >> 32);
  }
  template <class Values>
  void permute(Values& values, size_t count) {
    for (size_t i = count; i > 1; --i) std::swap(values[i - 1], values[below(uint32_t(i))]);
  }

 private:
  uint64_t state_;
};

}  // namespace simt
