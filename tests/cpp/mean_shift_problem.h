// One mean-shift step and its derivative as they are written, pair by pair in double: what kernels are compared with.
#pragma once

#include "testing.h"

#include <limits>

namespace testing {

namespace mean_shift {

struct Case {
  std::vector<int64_t> point_sizes, source_sizes;  // no source sizes: blurring
  int64_t dim;
  double kappa, eta;
  bool masses;
  int64_t clusters = 0;  // 0: rows all over the sphere, else near so many centres, one after the other
  double tol = 0;
  int64_t chunk = 0;  // rows of a chunk; of pairs of chunks every third is left out. 0: no pair is
};

template <class T>
struct Results {
  std::vector<T> moved, mean, log_density, grad_points, grad_sources, grad_log_weight;
  std::vector<double> scalars;
};

template <class T>
struct Problem {
  Case c;
  bool blurring;
  std::vector<int64_t> point_offsets, source_offsets;
  std::vector<T> points, sources, log_weight, grad_moved;

  explicit Problem(const Case& given) : c(given), blurring(given.source_sizes.empty()) {
    point_offsets = testing::offsets_of(c.point_sizes);
    source_offsets = blurring ? point_offsets : testing::offsets_of(c.source_sizes);
    points = rows(point_offsets.back(), 3);
    sources = blurring ? points : rows(source_offsets.back(), 4);
    grad_moved = testing::unit_rows<T>(point_offsets.back(), c.dim, 5);
    for (int64_t j = 0; c.masses && j < source_offsets.back(); ++j)
      log_weight.push_back(j % 5 == 0 ? -std::numeric_limits<T>::infinity() : T(0.4 * double(j % 7) - 1));
  }

  std::vector<T> rows(int64_t count, unsigned seed) const {
    std::vector<T> result = testing::unit_rows<T>(count, c.dim, seed);
    if (c.clusters == 0) return result;
    const std::vector<T> centers = testing::unit_rows<T>(c.clusters, c.dim, 8);
    for (int64_t i = 0; i < count; ++i) {
      T* row = &result[size_t(i * c.dim)];
      const T* center = &centers[size_t(i * c.clusters / count * c.dim)];
      for (int64_t d = 0; d < c.dim; ++d) row[d] = center[d] + T(0.05) * row[d];
      const double length = std::sqrt(testing::dot(row, row, c.dim));
      for (int64_t d = 0; d < c.dim; ++d) row[d] = T(double(row[d]) / length);
    }
    return result;
  }

  // Whether a row of an image sees a source of it; both count from the image's first.
  bool kept(int64_t point, int64_t source) const {
    return c.chunk == 0 || (point / c.chunk + source / c.chunk) % 3 != 1;
  }

  // The formulas of the step as they are written, pair by pair, in double.
  Results<double> literal() const {
    const size_t dim = size_t(c.dim);
    Results<double> r;
    r.moved.assign(points.size(), 0);
    r.mean = r.grad_points = r.moved;
    r.log_density.assign(size_t(point_offsets.back()), 0);
    r.grad_sources.assign(sources.size(), 0);
    r.grad_log_weight.assign(sources.size() / dim, 0);
    r.scalars = {0.0, 0.0};
    for (size_t image = 0; image + 1 < point_offsets.size(); ++image) {
      for (size_t i = size_t(point_offsets[image]); i < size_t(point_offsets[image + 1]); ++i) {
        row(i, size_t(point_offsets[image]), size_t(source_offsets[image]), size_t(source_offsets[image + 1]), r);
      }
    }
    if (blurring) {
      for (size_t k = 0; k < r.grad_points.size(); ++k) r.grad_points[k] += r.grad_sources[k];
      r.grad_sources.clear();
    }
    if (!c.masses) r.grad_log_weight.clear();
    return r;
  }

  void row(size_t i, size_t first_point, size_t first, size_t last, Results<double>& r) const {
    const size_t dim = size_t(c.dim);
    const T* x = &points[i * dim];
    std::vector<double> logit, probability;
    double top = -std::numeric_limits<double>::infinity(), total = 0;
    for (size_t j = first; j < last; ++j) {
      const double bias = c.masses ? double(log_weight[j]) : 0.0;
      const bool seen = kept(int64_t(i - first_point), int64_t(j - first));
      logit.push_back(seen ? c.kappa * (testing::dot(x, &sources[j * dim], c.dim) - 1) + bias
                           : -std::numeric_limits<double>::infinity());
      top = std::max(top, logit.back());
    }
    const bool mass = top > -std::numeric_limits<double>::infinity();
    for (double value : logit) {
      probability.push_back(mass ? std::exp(value - top) : 0.0);
      total += probability.back();
    }
    r.log_density[i] = mass ? top + std::log(total) : top;
    std::vector<double> m(dim, 0.0), g(dim), z(dim), point(x, x + dim),
        upstream(&grad_moved[i * dim], &grad_moved[i * dim] + dim);
    for (size_t j = first; j < last; ++j) {
      if (mass) probability[j - first] /= total;
      for (size_t d = 0; d < dim; ++d) m[d] += probability[j - first] * double(sources[j * dim + d]);
    }
    if (!mass) m = point;
    double length = 0, along = 0;
    for (size_t d = 0; d < dim; ++d) {
      z[d] = c.eta * m[d] + (1 - c.eta) * point[d];
      length += z[d] * z[d];
    }
    length = std::sqrt(length);
    for (size_t d = 0; d < dim; ++d) {
      z[d] /= length;
      along += z[d] * upstream[d];
    }
    double e = 0;
    for (size_t d = 0; d < dim; ++d) {
      g[d] = (upstream[d] - along * z[d]) / length;
      r.moved[i * dim + d] = z[d];
      r.mean[i * dim + d] = m[d];
      r.scalars[1] += g[d] * (m[d] - point[d]);
      r.grad_points[i * dim + d] += mass ? (1 - c.eta) * g[d] : g[d];
      e += c.eta * g[d] * m[d];
    }
    for (size_t j = first; mass && j < last; ++j) {
      const T* y = &sources[j * dim];
      double along_y = 0;
      for (size_t d = 0; d < dim; ++d) along_y += c.eta * g[d] * double(y[d]);
      const double p = probability[j - first], s = p * (along_y - e);
      r.grad_log_weight[j] += s;
      r.scalars[0] += s * testing::dot(x, y, c.dim);
      for (size_t d = 0; d < dim; ++d) {
        r.grad_points[i * dim + d] += c.kappa * s * double(y[d]);
        r.grad_sources[j * dim + d] += p * c.eta * g[d] + c.kappa * s * point[d];
      }
    }
  }
};

template <class T>
void compare(const std::vector<T>& value, const std::vector<double>& expected, double tolerance) {
  CHECK(value.size() == expected.size());
  for (size_t k = 0; k < value.size() && k < expected.size(); ++k) {
    if (std::isinf(expected[k])) {
      CHECK(double(value[k]) == expected[k]);
    } else {
      CHECK_NEAR(value[k], expected[k], tolerance);
    }
  }
}

}  // namespace mean_shift

}  // namespace testing
