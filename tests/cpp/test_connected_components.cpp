// Connected components against a literal flood fill, and cosines with the same bits on either side of a pair.
#include "components_problem.h"
#include "launch/connected_components.h"

namespace {

using testing::lattice_rows;
using testing::literal;

template <class T>
std::vector<int64_t> components(const std::vector<T>& points, const std::vector<int64_t>& offsets, int64_t dim,
                                double threshold, rpe::TaskPool& pool) {
  std::vector<int64_t> labels(size_t(offsets.back()), -7);
  rpe::ConnectedComponents<T> problem{};
  problem.points = points.data();
  problem.dim = dim;
  problem.threshold = T(2 * threshold - 1);
  problem.labels = labels.data();
  rpe::run_connected_components(problem, offsets.data(), int64_t(offsets.size()) - 1, pool);
  return labels;
}

template <class T>
void check(const std::vector<int64_t>& sizes, int64_t dim, double threshold) {
  const std::vector<int64_t> offsets = testing::offsets_of(sizes);
  const std::vector<T> points = lattice_rows<T>(offsets.back(), dim, unsigned(dim));
  testing::ThreadPool serial(1), threads(4, true);
  const auto labels = components(points, offsets, dim, threshold, serial);
  CHECK(labels == literal(points, offsets, dim, threshold));
  CHECK(labels == components(points, offsets, dim, threshold, threads));
}

// A chain at the threshold itself: one bit of difference between (i, j) and (j, i), or between positions, would cut it
// in one order of the rows and not in another.
template <class T>
void check_order(int64_t dim) {
  const int64_t count = 300;
  std::vector<T> points = testing::unit_rows<T>(count, dim, 2), reversed;
  for (int64_t i = count; i-- > 0;)
    reversed.insert(reversed.end(), &points[size_t(i * dim)], &points[size_t(i * dim)] + dim);
  testing::ThreadPool pool(2);
  for (int64_t k = 0; k < 20; ++k) {
    const double threshold = 0.5 * (1 + testing::dot(&points[size_t(k * dim)], &points[size_t((k + 9) * dim)], dim));
    const auto forward = components(points, {0, count}, dim, threshold, pool);
    const auto backward = components(reversed, {0, count}, dim, threshold, pool);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t j = 0; j < i; ++j) {
        const bool together = forward[size_t(i)] == forward[size_t(j)];
        CHECK(together == (backward[size_t(count - 1 - i)] == backward[size_t(count - 1 - j)]));
      }
    }
  }
}

template <class T>
void check_all() {
  for (int64_t dim : {1, 3, 8, 17, 64}) {
    for (double threshold : {0.5, 0.75, 0.95}) check<T>({0, 1, 47, 0, 250, 49}, dim, threshold);
  }
  check<T>({}, 3, 0.7);
  check<T>({600}, 4, 0.9);
  check<T>({300}, 3, 0.0);
  check_order<T>(7);
}

}  // namespace

int main() {
  testing::for_each_variant([] {
    check_all<float>();
    check_all<double>();
  });
  return testing::finish();
}
