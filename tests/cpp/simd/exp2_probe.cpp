// The exponential of one SIMD variant as a plain function over arrays, for test_exp2.cpp.
#include "cpu/simd.h"

namespace rpe {
namespace RPE_SIMD {

template <class T>
static void exp2_array(const T* input, T* output, int64_t count) {
  using V = typename Simd<T>::Vector;
  for (int64_t i = 0; i + kLanes<T> <= count; i += kLanes<T>) store(output + i, exp2(load<V>(input + i)));
}

extern void exp2_float32(const float* input, float* output, int64_t count);
extern void exp2_float64(const double* input, double* output, int64_t count);
void exp2_float32(const float* input, float* output, int64_t count) {
  exp2_array(input, output, count);
}
void exp2_float64(const double* input, double* output, int64_t count) {
  exp2_array(input, output, count);
}

}  // namespace RPE_SIMD
}  // namespace rpe
