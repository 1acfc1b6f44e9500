// Carves typed arrays out of one allocation. Run once without memory to learn the size, then with it.
#pragma once

#include "block.h"

#include <cstddef>
#include <cstdint>

namespace rpe {

class Workspace {
 public:
  explicit Workspace(void* memory) : memory_(static_cast<char*>(memory)) {}

  template <class T>
  T* take(int64_t count) {
    char* result = memory_ ? memory_ + bytes_ : nullptr;
    bytes_ += (size_t(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<T*>(result);
  }
  size_t bytes() const { return bytes_; }

  static constexpr size_t kAlignment = 64;

 private:
  char* memory_;
  size_t bytes_ = 0;
};

// Row length of row-major workspace arrays.
template <class T>
inline int64_t padded_dim(int64_t dim) {
  constexpr int64_t unit = kRowBytes / int64_t(sizeof(T));
  return (dim + unit - 1) / unit * unit;
}

}  // namespace rpe
