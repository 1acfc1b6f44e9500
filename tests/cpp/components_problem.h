// Connected components of a threshold graph by a literal flood fill: what kernels are compared with.
#pragma once

#include "testing.h"

namespace testing {

template <class T>
std::vector<int64_t> literal(const std::vector<T>& points, const std::vector<int64_t>& offsets, int64_t dim,
                             double threshold) {
  std::vector<int64_t> labels(size_t(offsets.back()), -1);
  for (size_t image = 0; image + 1 < offsets.size(); ++image) {
    int64_t next = 0;
    for (int64_t start = offsets[image]; start < offsets[image + 1]; ++start) {
      if (labels[size_t(start)] >= 0) continue;
      std::vector<int64_t> open{start};
      labels[size_t(start)] = next;
      while (!open.empty()) {
        const int64_t i = open.back();
        open.pop_back();
        for (int64_t j = offsets[image]; j < offsets[image + 1]; ++j) {
          if (labels[size_t(j)] >= 0) continue;
          if (testing::dot(&points[size_t(i * dim)], &points[size_t(j * dim)], dim) < 2 * threshold - 1) continue;
          labels[size_t(j)] = next;
          open.push_back(j);
        }
      }
      ++next;
    }
  }
  return labels;
}

// Integer coordinates: every cosine is exact in any order, so the literal graph is the kernel's graph.
template <class T>
std::vector<T> lattice_rows(int64_t count, int64_t dim, unsigned seed) {
  std::mt19937 generator(seed);
  std::vector<T> rows(size_t(count * dim));
  for (T& value : rows) value = T(int64_t(generator() % 5) - 2) / T(4);
  return rows;
}

}  // namespace testing
