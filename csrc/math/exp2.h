// 2^t on SIMD vectors: the kernel weight of every mean-shift pair.
//
//   t = n + r, n integer, |r| <= 1/2:  2^t = 2^n p(r), p a minimax polynomial with p(0) = 1 exactly
//   float32: degree 5, relative error 9.2e-8 before rounding;  float64: degree 11, 6.3e-18
// Adding a large constant leaves n plus the exponent bias in the low bits of the sum, so no conversion is needed.
// Below the smallest normal number the result is 0 (no denormals); NaN gives NaN; the caller keeps t <= kLimit.
#pragma once

#include "portable.h"

namespace rpe {

template <class T>
struct Exp2Constants;

template <>
struct Exp2Constants<float> {
  using Element = float;
  static constexpr float kSmallest = -126.0f;
  static constexpr float kLimit = 127.0f;
  static constexpr float kMagic = 12582912.0f + 127.0f;  // 1.5 * 2^23 + bias
  static constexpr int kMantissaBits = 23;
  static constexpr int kDegree = 5;
  static constexpr float kCoefficients[5] = {0x1.62e42ap-1f, 0x1.ebf9bcp-3f, 0x1.c6b752p-5f, 0x1.3cea88p-7f,
                                             0x1.5bba14p-10f};
};

template <>
struct Exp2Constants<double> {
  using Element = double;
  static constexpr double kSmallest = -1022.0;
  static constexpr double kLimit = 1023.0;
  static constexpr double kMagic = 6755399441055744.0 + 1023.0;  // 1.5 * 2^52 + bias
  static constexpr int kMantissaBits = 52;
  static constexpr int kDegree = 11;
  static constexpr double kCoefficients[11] = {0x1.62e42fefa39efp-1,  0x1.ebfbdff82c598p-3,  0x1.c6b08d704a0c2p-5,
                                               0x1.3b2ab6fba1ddap-7,  0x1.5d87fe78a5276p-10, 0x1.430913096fd9fp-13,
                                               0x1.ffcbfc670dcd4p-17, 0x1.62bfd47773353p-20, 0x1.b524fae627834p-24,
                                               0x1.e6063f7217bc6p-28, 0x1.e9d3fe3952179p-32};
};

// For values that become float16 operands: degree 3, relative error 1.0e-4, a fifth of what rounding them costs.
struct Exp2Half {
  using Element = float;
  static constexpr int kDegree = 3;
  static constexpr float kCoefficients[3] = {0x1.62f5fap-1f, 0x1.f00c4ep-3f, 0x1.c2a25cp-5f};
};

// Multiply-adds come from the caller (`Fma` is a stateless functor), so that every rounding is explicit.
// p(r) by Horner's rule from coefficient kNext down, `p` being what came before.
template <class C, int kNext, class V, class Fma>
RPE_FORMULA V exp2_horner(V r, V p, Fma fma) {
  if constexpr (kNext < 0) {
    return fma(p, r, V{} + typename C::Element(1));
  } else {
    constexpr auto coefficient = C::kCoefficients[kNext];
    return exp2_horner<C, kNext - 1>(r, V(fma(p, r, V{} + coefficient)), fma);
  }
}

// 2^r for |r| <= 1/2.
template <class C, class V, class Fma>
RPE_FORMULA V exp2_fraction(V r, Fma fma) {
  constexpr auto highest = C::kCoefficients[C::kDegree - 1];
  return exp2_horner<C, C::kDegree - 2>(r, V(V{} + highest), fma);
}

template <class T, class V, class Bits, class Fma>
RPE_FORMULA V exp2_polynomial(V t, Fma fma) {
  using C = Exp2Constants<T>;
  const V zero = V{};
  const V shifted = t + C::kMagic;
  const V p = exp2_fraction<C>(V(t - (shifted - C::kMagic)), fma);
  const V scale = (V)((Bits)shifted << C::kMantissaBits);
  return t < zero + C::kSmallest ? zero : p * scale;
}

}  // namespace rpe
