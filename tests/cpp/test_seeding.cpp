// Farthest points and nearest rows against literal double loops, in every variant, with and without threads.
#include "launch/seeding.h"
#include "testing.h"

#include <limits>

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Coordinates whose products are exact in any order, so that the literal choice is the kernel's; many of them are equal.
template <class T>
std::vector<T> lattice_rows(int64_t count, int64_t dim, unsigned seed) {
  std::mt19937 generator(seed);
  std::vector<T> rows(size_t(count * dim));
  for (T& value : rows) value = T(int64_t(generator() % 9) - 4) / T(8);
  return rows;
}

template <class T>
std::vector<int64_t> farthest(const std::vector<T>& points, const std::vector<int64_t>& offsets, int64_t dim,
                              int64_t num_seeds, const std::vector<int64_t>& first, rpe::TaskPool& pool) {
  std::vector<int64_t> index(first.size() * size_t(num_seeds), -7);
  rpe::FarthestPoints<T> p{};
  p.points = points.data();
  p.first = first.data();
  p.dim = dim;
  p.num_seeds = num_seeds;
  p.covered = T(0.9);
  p.index = index.data();
  rpe::run_farthest_points(p, offsets.data(), int64_t(first.size()), pool);
  return index;
}

template <class T>
std::vector<int64_t> literal_farthest(const std::vector<T>& points, const std::vector<int64_t>& offsets, int64_t dim,
                                      int64_t num_seeds, const std::vector<int64_t>& first) {
  std::vector<int64_t> index;
  for (size_t image = 0; image < first.size(); ++image) {
    const T* rows = points.data() + offsets[image] * dim;
    const int64_t count = offsets[image + 1] - offsets[image];
    std::vector<double> nearest(size_t(count), -kInfinity);
    const auto smallest = [&] { return std::min_element(nearest.begin(), nearest.end()) - nearest.begin(); };
    const auto raise = [&](const std::vector<T>& other) {
      for (int64_t i = 0; i < count; ++i)
        nearest[size_t(i)] = std::max(nearest[size_t(i)], testing::dot(rows + i * dim, other.data(), dim));
    };
    int64_t next = std::max<int64_t>(first[image], 0);
    if (first[image] < 0 && count > 0) {
      std::vector<T> sum(size_t(dim), T(0));
      for (int64_t i = 0; i < count * dim; ++i) sum[size_t(i % dim)] += rows[i];
      raise(sum);
      next = smallest();
      std::fill(nearest.begin(), nearest.end(), -kInfinity);
    }
    const int64_t start = next;
    for (int64_t k = 0; k < num_seeds; ++k) {
      index.push_back(next);
      if (count == 0) continue;
      raise({rows + next * dim, rows + (next + 1) * dim});
      nearest[size_t(next)] = kInfinity;
      next = smallest();
      if (nearest[size_t(next)] >= 0.9) next = start;
    }
  }
  return index;
}

template <class T>
void check_farthest(const std::vector<int64_t>& sizes, int64_t dim, int64_t num_seeds, int64_t first) {
  const std::vector<int64_t> offsets = testing::offsets_of(sizes);
  const std::vector<T> points = lattice_rows<T>(offsets.back(), dim, unsigned(dim));
  const std::vector<int64_t> starts(sizes.size(), first);
  testing::ThreadPool serial(1), threads(4, true);
  const auto index = farthest(points, offsets, dim, num_seeds, starts, serial);
  CHECK(index == literal_farthest(points, offsets, dim, num_seeds, starts));
  CHECK(index == farthest(points, offsets, dim, num_seeds, starts, threads));
}

template <class T>
void check_nearest(const std::vector<int64_t>& sizes, const std::vector<int64_t>& row_sizes, int64_t dim) {
  const std::vector<int64_t> offsets = testing::offsets_of(sizes), row_offsets = testing::offsets_of(row_sizes);
  std::vector<T> points = lattice_rows<T>(offsets.back(), dim, 1), rows = lattice_rows<T>(row_offsets.back(), dim, 2);
  points[0] = std::numeric_limits<T>::quiet_NaN();
  std::vector<int64_t> expected;
  for (size_t image = 0; image < sizes.size(); ++image) {
    for (int64_t i = offsets[image]; i < offsets[image + 1]; ++i) {
      double largest = -kInfinity;
      expected.push_back(-1);
      for (int64_t j = row_offsets[image]; j < row_offsets[image + 1]; ++j) {
        const double cosine = testing::dot(&points[size_t(i * dim)], &rows[size_t(j * dim)], dim);
        if (cosine > largest) expected.back() = j - row_offsets[image];
        largest = std::max(largest, cosine);
      }
    }
  }
  for (int64_t num_threads : {1, 4}) {
    std::vector<int64_t> nearest(size_t(offsets.back()), -7);
    rpe::NearestRows<T> p{};
    p.points = points.data();
    p.rows = rows.data();
    p.dim = dim;
    p.row_offsets = row_offsets.data();
    p.nearest = nearest.data();
    testing::ThreadPool pool(num_threads);
    rpe::run_nearest_rows(p, offsets.data(), int64_t(sizes.size()), pool);
    CHECK(nearest == expected);
  }
}

template <class T>
void check_all() {
  for (int64_t dim : {1, 3, 8, 17, 64}) {
    for (int64_t first : {-1, 0}) check_farthest<T>({1, 0, 47, 250, 1500}, dim, 40, first);
    check_nearest<T>({1, 0, 47, 250, 49}, {3, 2, 0, 9, 100}, dim);
  }
  check_farthest<T>({}, 3, 5, -1);
  check_farthest<T>({700}, 6, 300, 699);
}

}  // namespace

int main() {
  testing::for_each_variant([] {
    check_all<float>();
    check_all<double>();
  });
  return testing::finish();
}
