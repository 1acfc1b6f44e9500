// The formula headers against finite differences and literal sums.
#include "math/pairwise_term.h"
#include "math/sphere_step.h"
#include "testing.h"

namespace {

void check_hinge() {
  const double step = 1e-6;
  for (double cosine = -1.0; cosine <= 1.0; cosine += 0.0625) {
    for (double threshold : {-0.51, 0.03, 0.8}) {
      const double excess = rpe::hinge_excess(cosine, threshold);
      const double slope = rpe::hinge_slope(excess, 1.0);
      const double above = rpe::hinge_excess(cosine + step, threshold),
                   below = rpe::hinge_excess(cosine - step, threshold);
      CHECK(excess >= 0.0);
      CHECK_NEAR(slope, (above - below) / (2 * step), 1e-6);
    }
  }
  CHECK(rpe::hinge_slope(rpe::hinge_excess(0.25, 0.25), 1.0) == 0.0);
}

void check_pull() {
  const int64_t count = 7, dim = 4;
  const std::vector<double> rows = testing::unit_rows<double>(count, dim, 3);
  double literal = 0, weights = 0, squared = 0;
  std::vector<double> sum(dim, 0.0);
  for (int64_t i = 0; i < count; ++i) {
    const double weight = 0.1 * double(i + 1);
    weights += weight;
    for (int64_t d = 0; d < dim; ++d) sum[size_t(d)] += weight * rows[size_t(i * dim + d)];
    for (int64_t j = 0; j < count; ++j) {
      const double similarity = 0.5 * (1 + testing::dot(&rows[size_t(i * dim)], &rows[size_t(j * dim)], dim));
      literal += weight * 0.1 * double(j + 1) * (1 - similarity);
    }
  }
  for (double value : sum) squared += value * value;
  CHECK_NEAR(rpe::pull_value(weights, squared), literal, 1e-12);
}

// Loss G.Z of one row as a function of its point, its mean and eta.
double projected(const std::vector<double>& gradient, const std::vector<double>& point, const std::vector<double>& mean,
                 double eta) {
  const int64_t dim = int64_t(point.size());
  std::vector<double> moved(point.size());
  rpe::sphere_step(point.data(), mean.data(), eta, dim, moved.data());
  return testing::dot(gradient.data(), moved.data(), dim);
}

void check_sphere_step() {
  const double step = 1e-6;
  for (int64_t dim : {1, 2, 5, 17}) {
    for (double eta : {0.3, 1.0, 1.7}) {
      std::vector<double> point = testing::unit_rows<double>(1, dim, 5), mean = testing::unit_rows<double>(1, dim, 8);
      const std::vector<double> gradient = testing::unit_rows<double>(1, dim, 9);
      for (double& value : mean) value *= 0.7;
      if (dim == 1) mean[0] = 0.7 * point[0];
      std::vector<double> grad_step(static_cast<size_t>(dim));
      const double grad_eta =
          rpe::sphere_step_gradient(gradient.data(), point.data(), mean.data(), eta, dim, grad_step.data());
      for (size_t d = 0; d < size_t(dim); ++d) {
        std::vector<double> above = mean, below = mean;
        above[d] += step;
        below[d] -= step;
        const double slope =
            (projected(gradient, point, above, eta) - projected(gradient, point, below, eta)) / (2 * step);
        CHECK_NEAR(eta * grad_step[d], slope, 1e-7);
      }
      const double slope =
          (projected(gradient, point, mean, eta + step) - projected(gradient, point, mean, eta - step)) / (2 * step);
      CHECK_NEAR(grad_eta, slope, 1e-7);
    }
  }
  std::vector<double> zero(3, 0.0), moved(3, 7.0), gradient(3, 1.0), grad_step(3, 7.0);
  rpe::sphere_step(zero.data(), zero.data(), 0.5, int64_t(3), moved.data());
  rpe::sphere_step_gradient(gradient.data(), zero.data(), zero.data(), 0.5, int64_t(3), grad_step.data());
  for (size_t d = 0; d < 3; ++d) {
    CHECK(moved[d] == 0.0);
    CHECK(grad_step[d] == 0.0);
  }
}

}  // namespace

int main() {
  check_hinge();
  check_pull();
  check_sphere_step();
  return testing::finish();
}
