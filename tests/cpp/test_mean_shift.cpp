// One mean-shift step and its derivative against literal double loops, in every variant, on both routes.
#include "launch/mean_shift.h"
#include "launch/select.h"
#include "mean_shift_problem.h"

namespace {

using namespace testing::mean_shift;

template <class T>
Results<T> run(const Problem<T>& problem, rpe::TaskPool& pool, bool half = false) {
  Results<T> r;
  r.moved.assign(problem.points.size(), T(-9));
  r.mean = r.grad_points = r.moved;
  r.log_density.assign(size_t(problem.point_offsets.back()), T(-9));
  r.grad_sources.assign(problem.blurring ? 0 : problem.sources.size(), T(-9));
  r.grad_log_weight.assign(problem.log_weight.size(), T(-9));
  rpe::MeanShift<T> p{};
  p.points = problem.points.data();
  p.sources = problem.blurring ? problem.points.data() : problem.sources.data();
  p.log_weight = problem.c.masses ? problem.log_weight.data() : nullptr;
  p.blurring = problem.blurring;
  p.dim = problem.c.dim;
  p.tol = problem.c.tol;
  p.half = half;
  p.moved = r.moved.data();
  p.mean = r.mean.data();
  p.log_density = r.log_density.data();
  const int64_t images = int64_t(problem.point_offsets.size()) - 1;
  rpe::run_mean_shift_forward(p, problem.c.kappa, problem.c.eta, problem.point_offsets.data(),
                              problem.source_offsets.data(), images, pool);
  p.grad_moved = problem.grad_moved.data();
  p.saved_mean = r.mean.data();
  p.saved_log_density = r.log_density.data();
  p.with_grad_weight = problem.c.masses;
  p.grad_points = r.grad_points.data();
  p.grad_sources = problem.blurring ? nullptr : r.grad_sources.data();
  p.grad_log_weight = problem.c.masses ? r.grad_log_weight.data() : nullptr;
  const rpe::ScalarGradients scalars = rpe::run_mean_shift_backward(
      p, problem.c.kappa, problem.c.eta, problem.point_offsets.data(), problem.source_offsets.data(), images, pool);
  r.scalars = {scalars.kappa, scalars.eta};
  return r;
}

template <class T>
bool same_bits(const Results<T>& a, const Results<T>& b) {
  return testing::same_bits(a.moved, b.moved) && testing::same_bits(a.mean, b.mean) &&
         testing::same_bits(a.log_density, b.log_density) && testing::same_bits(a.grad_points, b.grad_points) &&
         testing::same_bits(a.grad_sources, b.grad_sources) &&
         testing::same_bits(a.grad_log_weight, b.grad_log_weight) && testing::same_bits(a.scalars, b.scalars);
}

template <class T>
void check(const Case& c) {
  const Problem<T> problem(c);
  testing::ThreadPool serial(1), threads(3, true);
  const Results<T> result = run(problem, serial), again = run(problem, threads);
  CHECK(same_bits(result, again));
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

// Products of bfloat16 copies: as exact as those, and the same for any number of threads.
void check_half(const Case& c) {
  const Problem<float> problem(c);
  testing::ThreadPool serial(1), threads(3, true);
  const Results<float> result = run(problem, serial, true);
  CHECK(same_bits(result, run(problem, threads, true)));
  CHECK(!same_bits(result, run(problem, serial)));
  const Results<double> exact = problem.literal();
  const double unit = 1.0 / 256;  // of bfloat16
  compare(result.moved, exact.moved, 4 * unit);
  compare(result.mean, exact.mean, 4 * unit);
  compare(result.log_density, exact.log_density, unit * (1 + 0.3 * c.kappa));
  compare(result.grad_points, exact.grad_points, 8 * unit * (1 + testing::largest(exact.grad_points)));
  compare(result.grad_log_weight, exact.grad_log_weight, 8 * unit * (1 + testing::largest(exact.grad_log_weight)));
  // Sums over all points, in which errors of single points cancel.
  compare(result.scalars, exact.scalars, 4 * unit * (1 + testing::largest(exact.scalars)));
}

// Where the CPU, kappa or the kernels do not allow it, the same request gives the bits of float.
void check_half_refused(const Case& c) {
  const Problem<float> problem(c);
  testing::ThreadPool serial(1);
  CHECK(same_bits(run(problem, serial, true), run(problem, serial)));
}

void check_half_products() {
  const std::vector<int64_t> ragged{0, 1, 49, 0, 130};
  for (const std::string& variant : rpe::simd_variants()) {
    CHECK(rpe::simd_select(variant));
    testing::context() = variant + ", half";
    if (!rpe::simd_half_products()) {
      check_half_refused({ragged, {}, 17, 5.0, 0.7, true});
      continue;
    }
    for (int64_t dim : {2, 3, 8, 17, 64, 100, 256}) check_half({ragged, {}, dim, 5.0, 1.0, false});
    for (int64_t dim : {3, 16, 48}) {
      for (double kappa : {1.0, 20.0}) {
        for (bool masses : {false, true}) check_half({{300, 47, 0, 241}, {}, dim, kappa, 0.7, masses});
      }
      check_half({{300, 47, 0, 241}, {}, dim, 120.0, 0.7, false});
    }
    check_half({{310, 5, 0, 400}, {}, 17, 100.0, 0.9, false, 6, 1e-7});
    check_half_refused({ragged, {}, 17, 129.0, 0.7, false});
    check_half_refused({{60}, {130}, 17, 5.0, 0.7, true});
  }
  CHECK(rpe::simd_select("auto"));
}

template <class T>
void check_extreme_kappa() {
  for (double kappa : {1e6, 1e20, sizeof(T) == 4 ? 3e38 : 1e300}) {
    for (bool seeds : {false, true}) {
      for (bool masses : {false, true}) {
        const Problem<T> problem(
            Case{{70, 0, 3}, seeds ? std::vector<int64_t>{900, 4, 0} : std::vector<int64_t>{}, 6, kappa, 0.8, masses});
        testing::ThreadPool pool(2);
        const Results<T> result = run(problem, pool);
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
  // Few points and many sources: several runs an image.
  for (double kappa : {5.0, 300.0}) {
    for (bool masses : {false, true}) check<T>({{3, 60, 0, 2, 5}, {900, 700, 5, 0, 1200}, 17, kappa, 0.7, masses});
  }
  check<T>({{}, {}, 4, 5.0, 1.0, false});
  // What is left out of clusters far apart is less than rounding.
  for (int64_t dim : {3, 17}) {
    for (bool masses : {false, true}) {
      check<T>({{310, 5, 0, 400}, {}, dim, 200.0, 0.9, masses, 6, 1e-7});
      check<T>({{100, 5, 0, 60}, {310, 0, 40, 400}, dim, 200.0, 0.9, masses, 6, 1e-7});
    }
  }
  check_extreme_kappa<T>();
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
