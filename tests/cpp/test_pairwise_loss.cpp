// The pairwise-loss kernels against literal double loops, in every variant, at ragged sizes.
#include "launch/pairwise_loss.h"
#include "testing.h"

namespace {

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

  void run(rpe::TaskPool& pool, bool with_gradient, std::vector<T>& loss, std::vector<T>& gradient) const {
    loss.assign(offsets.size() - 1, T(-1));
    gradient.assign(with_gradient ? points.size() : 0, T(-1));
    rpe::PairwiseLoss<T> problem{};
    problem.points = points.data();
    problem.instance = instance.data();
    problem.weight = weight.data();
    problem.dim = dim;
    problem.threshold = T(2 * margin - 1);
    problem.with_gradient = with_gradient;
    problem.loss = loss.data();
    problem.gradient = with_gradient ? gradient.data() : nullptr;
    rpe::run_pairwise_loss(problem, offsets.data(), int64_t(offsets.size()) - 1, pool);
  }

  // Pairs whose cosine is within rounding of the threshold may fall on either side; they get no say in the gradient.
  void compare(const std::vector<T>& loss, const std::vector<T>& gradient) const {
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
          CHECK_NEAR(gradient[size_t(i * dim + d)], row[size_t(d)], testing::tolerance<T>() * row_scale + unsure);
      }
      CHECK_NEAR(loss[image], expected, testing::tolerance<T>() * scale);
    }
  }
};

template <class T>
void check(const std::vector<int64_t>& sizes, int64_t dim, double margin) {
  const Problem<T> problem(sizes, dim, margin, unsigned(17 + dim));
  std::vector<T> loss, gradient, other_loss, other_gradient;
  testing::ThreadPool serial(1), threads(3, true);
  problem.run(serial, true, loss, gradient);
  problem.compare(loss, gradient);
  problem.run(threads, true, other_loss, other_gradient);
  CHECK(testing::same_bits(loss, other_loss));
  CHECK(testing::same_bits(gradient, other_gradient));
  problem.run(threads, false, other_loss, other_gradient);
  CHECK(testing::same_bits(loss, other_loss));
}

template <class T>
void check_all() {
  for (int64_t dim : {1, 3, 8, 17, 64, 100, 256}) check<T>({0, 1, 2, 49, 0, 130}, dim, 0.5);
  for (int64_t size : {47, 48, 50, 95, 97, 239, 240, 241}) check<T>({size}, 5, 0.3);
  check<T>({}, 4, 0.5);
  check<T>({0, 0}, 4, 0.5);
  check<T>({700}, 24, 0.55);
  for (double margin : {0.0, 0.99, 1.0}) check<T>({150}, 6, margin);
}

}  // namespace

int main() {
  testing::for_each_variant([] {
    check_all<float>();
    check_all<double>();
  });
  return testing::finish();
}
