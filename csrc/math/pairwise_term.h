// Pairwise loss: the terms of one ordered pair and of one instance, on the cosine scale.
// V is a scalar or a vector of cosines; weights are applied by the caller. No memory access here.
//
//   different instances   [s - margin]_+ = [cos - threshold]_+ / 2   with s = (1 + cos)/2, threshold = 2 margin - 1
//   same instance         sum_{i,j in q} w_i w_j (1 - s_ij) = (W_q^2 - |v_q|^2)/2,  v_q = sum_{i in q} w_i x_i
#pragma once

#include "portable.h"

namespace rpe {

template <class V>
RPE_FORMULA V positive_part(V value) {
  const V zero = V{};
  return value > zero ? value : zero;
}
#if defined(__CUDACC__)
// One instruction there instead of two.
RPE_FORMULA float positive_part(float value) {
  return fmaxf(value, 0.0f);
}
#endif

// Excess of the cosine over the threshold, zero below it: twice the hinge on the similarity.
template <class V>
RPE_FORMULA V hinge_excess(V cosine, V threshold) {
  return positive_part(V(cosine - threshold));
}

// Slope of the excess, in {0, 1}. At the threshold itself it is 0.
template <class V>
RPE_FORMULA V hinge_slope(V excess, V one) {
  const V zero = V{};
  return excess > zero ? one : zero;
}

// Loss of all ordered pairs inside one instance. May be a rounding error below zero, as the literal sum may.
RPE_FORMULA double pull_value(double weight_sum, double weighted_row_sum_squared) {
  return 0.5 * (weight_sum * weight_sum - weighted_row_sum_squared);
}

}  // namespace rpe
