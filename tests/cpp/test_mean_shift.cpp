// One mean-shift step and its derivative against literal double loops, in every variant, on both routes.
#include "launch/mean_shift.h"
#include "testing.h"

#include <limits>

namespace {

struct Case {
  std::vector<int64_t> point_sizes, source_sizes;  // no source sizes: blurring
  int64_t dim;
  double kappa, eta;
  bool masses;
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
    points = testing::unit_rows<T>(point_offsets.back(), c.dim, 3);
    sources = blurring ? points : testing::unit_rows<T>(source_offsets.back(), c.dim, 4);
    grad_moved = testing::unit_rows<T>(point_offsets.back(), c.dim, 5);
    for (int64_t j = 0; c.masses && j < source_offsets.back(); ++j)
      log_weight.push_back(j % 5 == 0 ? -std::numeric_limits<T>::infinity() : T(0.4 * double(j % 7) - 1));
  }

  Results<T> run(rpe::TaskPool& pool) const {
    Results<T> r;
    r.moved.assign(points.size(), T(-9));
    r.mean = r.grad_points = r.moved;
    r.log_density.assign(size_t(point_offsets.back()), T(-9));
    r.grad_sources.assign(blurring ? 0 : sources.size(), T(-9));
    r.grad_log_weight.assign(log_weight.size(), T(-9));
    rpe::MeanShift<T> p{};
    p.points = points.data();
    p.sources = blurring ? points.data() : sources.data();
    p.log_weight = c.masses ? log_weight.data() : nullptr;
    p.blurring = blurring;
    p.dim = c.dim;
    p.moved = r.moved.data();
    p.mean = r.mean.data();
    p.log_density = r.log_density.data();
    const int64_t images = int64_t(point_offsets.size()) - 1;
    rpe::run_mean_shift_forward(p, c.kappa, c.eta, point_offsets.data(), source_offsets.data(), images, pool);
    p.grad_moved = grad_moved.data();
    p.saved_mean = r.mean.data();
    p.saved_log_density = r.log_density.data();
    p.with_grad_weight = c.masses;
    p.grad_points = r.grad_points.data();
    p.grad_sources = blurring ? nullptr : r.grad_sources.data();
    p.grad_log_weight = c.masses ? r.grad_log_weight.data() : nullptr;
    const rpe::ScalarGradients scalars =
        rpe::run_mean_shift_backward(p, c.kappa, c.eta, point_offsets.data(), source_offsets.data(), images, pool);
    r.scalars = {scalars.kappa, scalars.eta};
    return r;
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
        row(i, size_t(source_offsets[image]), size_t(source_offsets[image + 1]), r);
      }
    }
    if (blurring) {
      for (size_t k = 0; k < r.grad_points.size(); ++k) r.grad_points[k] += r.grad_sources[k];
      r.grad_sources.clear();
    }
    if (!c.masses) r.grad_log_weight.clear();
    return r;
  }

  void row(size_t i, size_t first, size_t last, Results<double>& r) const {
    const size_t dim = size_t(c.dim);
    const T* x = &points[i * dim];
    std::vector<double> logit, probability;
    double top = -std::numeric_limits<double>::infinity(), total = 0;
    for (size_t j = first; j < last; ++j) {
      const double bias = c.masses ? double(log_weight[j]) : 0.0;
      logit.push_back(c.kappa * (testing::dot(x, &sources[j * dim], c.dim) - 1) + bias);
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

template <class T>
void check(const Case& c) {
  const Problem<T> problem(c);
  testing::ThreadPool serial(1), threads(3, true);
  const Results<T> result = problem.run(serial), again = problem.run(threads);
  CHECK(testing::same_bits(result.moved, again.moved));
  CHECK(testing::same_bits(result.grad_points, again.grad_points));
  CHECK(testing::same_bits(result.grad_sources, again.grad_sources));
  CHECK(testing::same_bits(result.grad_log_weight, again.grad_log_weight));
  CHECK(testing::same_bits(result.scalars, again.scalars));
  const Results<double> exact = problem.literal();
  // A cosine errs by some units of the last place, a logit by kappa times as much, and |Y| may be small.
  const double unit = testing::tolerance<T>() * (1 + 0.1 * c.kappa);
  compare(result.moved, exact.moved, 4 * unit);
  compare(result.mean, exact.mean, unit);
  compare(result.log_density, exact.log_density, unit * (1 + c.kappa));
  const double scale = 1 + std::max(testing::largest(exact.grad_points), testing::largest(exact.grad_sources));
  compare(result.grad_points, exact.grad_points, 4 * unit * scale);
  compare(result.grad_sources, exact.grad_sources, 4 * unit * scale);
  compare(result.grad_log_weight, exact.grad_log_weight, 4 * unit * (1 + testing::largest(exact.grad_log_weight)));
  const double rows = double(problem.point_offsets.back()) + 1;
  compare(result.scalars, exact.scalars, 4 * unit * rows);
}

template <class T>
void check_extreme_kappa() {
  for (double kappa : {1e6, 1e20, sizeof(T) == 4 ? 3e38 : 1e300}) {
    for (bool seeds : {false, true}) {
      for (bool masses : {false, true}) {
        const Problem<T> problem(
            Case{{70, 0, 3}, seeds ? std::vector<int64_t>{90, 4, 0} : std::vector<int64_t>{}, 6, kappa, 0.8, masses});
        testing::ThreadPool pool(2);
        const Results<T> result = problem.run(pool);
        for (size_t i = 0; i < result.moved.size() / 6; ++i)
          CHECK_NEAR(testing::dot(&result.moved[i * 6], &result.moved[i * 6], 6), 1.0, 1e-5);
        for (T value : result.grad_points) CHECK(std::isfinite(value));
        for (T value : result.grad_sources) CHECK(std::isfinite(value));
        for (T value : result.grad_log_weight) CHECK(std::isfinite(value));
      }
    }
  }
}

template <class T>
void check_all() {
  const std::vector<int64_t> ragged{0, 1, 49, 0, 130};
  for (int64_t dim : {1, 3, 8, 17, 64, 100, 256}) check<T>({ragged, {}, dim, 5.0, 1.0, false});
  // D = 1 with eta away from 1 may meet |Y| near 0, where no tolerance holds.
  for (int64_t dim : {3, 17, 48}) {
    for (double kappa : {1e-3, 10.0, 100.0}) {
      for (bool masses : {false, true}) {
        check<T>({ragged, {}, dim, kappa, 0.7, masses});
        check<T>({{3, 1, 60, 0, 2}, ragged, dim, kappa, 0.7, masses});
      }
    }
  }
  for (int64_t size : {47, 48, 97, 241}) check<T>({{size}, {}, 5, 20.0, 1.3, false});
  check<T>({{500}, {}, 16, 30.0, 1.0, true});
  check<T>({{20}, {520}, 16, 100.0, 1.0, true});
  check<T>({{}, {}, 4, 5.0, 1.0, false});
  check_extreme_kappa<T>();
}

}  // namespace

int main() {
  testing::for_each_variant([] {
    check_all<float>();
    check_all<double>();
  });
  return testing::finish();
}
