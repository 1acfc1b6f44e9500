// The pairwise-loss kernels against literal double loops, in every variant, at ragged sizes.
#include "launch/pairwise_loss.h"
#include "launch/select.h"
#include "pairwise_loss_problem.h"

namespace {

using namespace testing::pairwise_loss;

template <class T>
void run(const Problem<T>& given, rpe::TaskPool& pool, bool with_gradient, std::vector<T>& loss,
         std::vector<T>& gradient, bool half = false) {
  loss.assign(given.offsets.size() - 1, T(-1));
  gradient.assign(with_gradient ? given.points.size() : 0, T(-1));
  rpe::PairwiseLoss<T> problem{};
  problem.points = given.points.data();
  problem.instance = given.instance.data();
  problem.weight = given.weight.data();
  problem.dim = given.dim;
  problem.threshold = T(2 * given.margin - 1);
  problem.with_gradient = with_gradient;
  problem.half = half;
  problem.loss = loss.data();
  problem.gradient = with_gradient ? gradient.data() : nullptr;
  rpe::run_pairwise_loss(problem, given.offsets.data(), int64_t(given.offsets.size()) - 1, pool);
}

template <class T>
void check(const std::vector<int64_t>& sizes, int64_t dim, double margin) {
  const Problem<T> problem(sizes, dim, margin, unsigned(17 + dim));
  std::vector<T> loss, gradient, other_loss, other_gradient;
  testing::ThreadPool serial(1), threads(3, true);
  run(problem, serial, true, loss, gradient);
  problem.compare(loss, gradient, testing::tolerance<T>());
  run(problem, threads, true, other_loss, other_gradient);
  CHECK(testing::same_bits(loss, other_loss));
  CHECK(testing::same_bits(gradient, other_gradient));
  run(problem, threads, false, other_loss, other_gradient);
  CHECK(testing::same_bits(loss, other_loss));
}

// A push of bfloat16 copies leaves the loss as it is, and the gradient within their rounding.
void check_half_products() {
  for (const std::string& variant : rpe::simd_variants()) {
    CHECK(rpe::simd_select(variant));
    testing::context() = variant + ", half";
    for (int64_t dim : {3, 8, 17, 64, 100}) {
      const Problem<float> problem({0, 1, 49, 0, 430}, dim, 0.5, unsigned(17 + dim));
      std::vector<float> loss, gradient, half_loss, half_gradient, again_loss, again_gradient;
      testing::ThreadPool serial(1), threads(3, true);
      run(problem, serial, true, loss, gradient);
      run(problem, serial, true, half_loss, half_gradient, true);
      run(problem, threads, true, again_loss, again_gradient, true);
      CHECK(testing::same_bits(loss, half_loss));
      CHECK(testing::same_bits(half_gradient, again_gradient));
      CHECK(testing::same_bits(gradient, half_gradient) == !rpe::simd_half_products());
      problem.compare(half_loss, half_gradient, 1.0 / 256);
    }
  }
  CHECK(rpe::simd_select("auto"));
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
  check_half_products();
  return testing::finish();
}
