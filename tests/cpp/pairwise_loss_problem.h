// Pairwise loss and its gradient as they are written, pair by pair in double: what kernels are compared with.
#pragma once

#include "testing.h"

namespace testing {

namespace pairwise_loss {

template <class T>
struct Problem {
  int64_t dim;
  double margin;
  std::vector<int64_t> offsets, instance;
  std::vector<T> points, weight;

  // Instances of random size, in order; the last rows of each image are ignored (zero rows of zero weight).
  Problem(const std::vector<int64_t>& sizes, int64_t row_dim, double chosen_margin, unsigned seed)
      : dim(row_dim), margin(chosen_margin), offsets(testing::offsets_of(sizes)) {
    std::mt19937 generator(seed);
    points = testing::unit_rows<T>(offsets.back(), dim, seed, 0.02);
    int64_t id = 0;
    for (int64_t size : sizes) {
      for (int64_t i = 0; i < size; ++i) {
        if (i == 0 || generator() % 20 == 0) ++id;
        const bool ignored = size > 4 && i >= size - 2;
        instance.push_back(id);
        weight.push_back(ignored ? T(0) : T(0.05 + 0.01 * double(generator() % 90)));
        if (!ignored) continue;
        for (int64_t d = 0; d < dim; ++d) points[(instance.size() - 1) * size_t(dim) + size_t(d)] = T(0);
      }
      ++id;
    }
  }

  // `tolerance` is relative to the sum of the weights that meet in a number. Pairs whose cosine is within rounding of the
  // threshold may fall on either side; they get no say in the gradient.
  void compare(const std::vector<T>& loss, const std::vector<T>& gradient, double tolerance) const {
    for (size_t image = 0; image + 1 < offsets.size(); ++image) {
      double expected = 0, scale = 0;
      for (int64_t i = offsets[image]; i < offsets[image + 1]; ++i) {
        std::vector<double> row(static_cast<size_t>(dim), 0.0);
        double row_scale = 0, unsure = 0;
        for (int64_t j = offsets[image]; j < offsets[image + 1]; ++j) {
          const double cosine = testing::dot(&points[size_t(i * dim)], &points[size_t(j * dim)], dim);
          const double weights = double(weight[size_t(i)]) * double(weight[size_t(j)]);
          const bool same = instance[size_t(i)] == instance[size_t(j)];
          const double excess = 0.5 * (1 + cosine) - margin;
          expected += weights * (same ? 1 - 0.5 * (1 + cosine) : std::max(excess, 0.0));
          scale += weights;
          row_scale += weights;
          if (!same && std::fabs(excess) < 1e-6) unsure += weights;
          const double slope = same ? -1 : (excess > 0 ? 1 : 0);
          for (int64_t d = 0; d < dim; ++d) row[size_t(d)] += weights * slope * double(points[size_t(j * dim + d)]);
        }
        for (int64_t d = 0; d < dim && !gradient.empty(); ++d)
          CHECK_NEAR(gradient[size_t(i * dim + d)], row[size_t(d)], tolerance * row_scale + unsure);
      }
      CHECK_NEAR(loss[image], expected, tolerance * scale);
    }
  }
};

}  // namespace pairwise_loss

}  // namespace testing
