// What the forward and backward mean-shift kernels share: tile shape, scales, and the weight of one logit.
#pragma once

#include "../launch/mean_shift.h"
#include "tiles.h"

namespace rpe {
namespace RPE_SIMD {

constexpr int64_t kTileRows = 48;
constexpr int64_t kMaxColumns = kMaxBlockRows;
constexpr double kLog2E = 1.4426950408889634074;

template <class T>
constexpr T kLowest = sizeof(T) == 4 ? T(-0x1.fffffep+127f) : T(-0x1.fffffffffffffp+1023);

// kappa for exponents in base 2, capped so that a product with a difference of cosines stays finite. At the cap any
// difference that T can hold near 1 already drives the weight to 0 or leaves it at 1.
template <class T>
RPE_FORMULA T logit_scale(T kappa) {
  const double cap = sizeof(T) == 4 ? 1e37 : 1e300;
  const double scale = double(kappa) * kLog2E;
  return T(scale < cap ? scale : cap);
}

// Largest exponent of base 2: 0 where the reference is the row's largest logit, else room for rows longer than 1.
template <class T>
RPE_FORMULA T logit_ceiling(bool fixed) {
  return fixed ? T(64) : T(0);
}

// exp of (logit - reference logit); a bias of -inf gives 0, a NaN stays.
template <class V>
RPE_FORMULA V relative_weight(V cosine, V bias, V scale, V reference, V reference_bias, V ceiling) {
  const V difference = fma(scale, cosine - reference, bias - reference_bias);
  return exp2(difference > ceiling ? ceiling : difference);
}

}  // namespace RPE_SIMD
}  // namespace rpe
