// Accuracy and edges of the exponential of every SIMD variant, against the C library in higher precision.
#include "testing.h"

#include <limits>

namespace rpe {
#define RPE_DECLARE(VARIANT)                          \
  namespace VARIANT {                                 \
  void exp2_float32(const float*, float*, int64_t);   \
  void exp2_float64(const double*, double*, int64_t); \
  }
RPE_DECLARE(portable)
#if defined(__x86_64__)
RPE_DECLARE(avx2)
RPE_DECLARE(avx512)
#endif
}  // namespace rpe

namespace {

template <class T>
using Exp2 = void (*)(const T*, T*, int64_t);

template <class T>
Exp2<T> exp2_of([[maybe_unused]] const std::string& variant) {
  constexpr bool narrow = sizeof(T) == 4;
#if defined(__x86_64__)
  if (variant == "avx512") {
    if constexpr (narrow)
      return rpe::avx512::exp2_float32;
    else
      return rpe::avx512::exp2_float64;
  }
  if (variant == "avx2") {
    if constexpr (narrow)
      return rpe::avx2::exp2_float32;
    else
      return rpe::avx2::exp2_float64;
  }
#endif
  if constexpr (narrow)
    return rpe::portable::exp2_float32;
  else
    return rpe::portable::exp2_float64;
}

template <class T>
void check_accuracy(Exp2<T> exp2, double lowest, double highest) {
  constexpr int64_t count = 1 << 18;
  std::vector<T> input(count), output(count);
  std::mt19937 generator(1);
  std::uniform_real_distribution<double> uniform(lowest, highest);
  for (T& value : input) value = T(uniform(generator));
  exp2(input.data(), output.data(), count);
  double worst = 0;
  for (int64_t i = 0; i < count; ++i) {
    const long double exact = std::exp2(static_cast<long double>(input[size_t(i)]));
    const double error = double(std::fabs((static_cast<long double>(output[size_t(i)]) - exact) / exact));
    worst = std::max(worst, error / double(std::numeric_limits<T>::epsilon()));
  }
  std::printf("[%s] float%d on [%g, %g]: %.2f ulp\n", testing::context().c_str(), int(8 * sizeof(T)), lowest, highest,
              worst);
  CHECK(worst <= 2.0);
}

template <class T>
void check_edges(Exp2<T> exp2) {
  constexpr T infinity = std::numeric_limits<T>::infinity();
  const T smallest = sizeof(T) == 4 ? T(-126) : T(-1022);
  std::vector<T> input(64, T(0)), output(64, T(7));
  input = {T(0), T(1), T(-1), T(10), -infinity, T(-1e30f), smallest, smallest * 2, std::nanf(""), T(0.5)};
  input.resize(64, T(-3));
  exp2(input.data(), output.data(), 64);
  CHECK(output[0] == T(1));
  CHECK(output[1] == T(2));
  CHECK(output[2] == T(0.5));
  CHECK(output[3] == T(1024));
  CHECK(output[4] == T(0));
  CHECK(output[5] == T(0));
  CHECK(output[6] == std::numeric_limits<T>::min());
  CHECK(output[7] == T(0));
  CHECK(std::isnan(output[8]));
  CHECK_NEAR(output[9], std::sqrt(2.0), 1e-6);
  CHECK(output[63] == T(0.125));
}

}  // namespace

int main() {
  testing::for_each_variant([] {
    const std::string& variant = testing::context();
    check_accuracy<float>(exp2_of<float>(variant), -0.5, 0.5);
    check_accuracy<float>(exp2_of<float>(variant), -126.0, 64.0);
    check_accuracy<double>(exp2_of<double>(variant), -1.0, 1.0);
    check_accuracy<double>(exp2_of<double>(variant), -1022.0, 64.0);
    check_edges(exp2_of<float>(variant));
    check_edges(exp2_of<double>(variant));
  });
  return testing::finish();
}
