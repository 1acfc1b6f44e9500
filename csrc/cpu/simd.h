// The vectors of one SIMD variant, and the few operations the kernels need on them.
//
// Every csrc/cpu/*.cpp is compiled once per variant: the compiler's flags choose the register width here, and
// -DRPE_SIMD=<variant> names the namespace, so that all variants live in one binary without sharing a symbol.
// Kernel code must therefore not instantiate shared inline functions (no standard containers, no <algorithm>).
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include "../math/exp2.h"
#include "../math/portable.h"

#if !defined(RPE_SIMD)
#define RPE_SIMD portable
#endif

#define RPE_KERNEL static __attribute__((noinline))
#define RPE_LAMBDA __attribute__((always_inline))
#if defined(__clang__)
#define RPE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define RPE_UNROLL _Pragma("GCC unroll 16")
#endif

namespace rpe {
namespace RPE_SIMD {

typedef float float4 __attribute__((vector_size(16)));
typedef float float8 __attribute__((vector_size(32)));
typedef float float16 __attribute__((vector_size(64)));
typedef double double2 __attribute__((vector_size(16)));
typedef double double4 __attribute__((vector_size(32)));
typedef double double8 __attribute__((vector_size(64)));
typedef int32_t int4 __attribute__((vector_size(16)));
typedef int32_t int8 __attribute__((vector_size(32)));
typedef int32_t int16 __attribute__((vector_size(64)));
typedef int64_t long2 __attribute__((vector_size(16)));
typedef int64_t long4 __attribute__((vector_size(32)));
typedef int64_t long8 __attribute__((vector_size(64)));
typedef uint32_t uint4 __attribute__((vector_size(16)));
typedef uint32_t uint8 __attribute__((vector_size(32)));
typedef uint32_t uint16 __attribute__((vector_size(64)));
typedef uint64_t ulong2 __attribute__((vector_size(16)));
typedef uint64_t ulong4 __attribute__((vector_size(32)));
typedef uint64_t ulong8 __attribute__((vector_size(64)));

// Vector: full register. Half: half a register where that is a faster fit for narrow rows, else the same.
// Label: integers as wide as T, so that label comparisons and value masks have one shape.
// kRows x kVectors: accumulators of one micro-tile, as many as the register file holds beside its operands.
template <class T>
struct Simd;

#if defined(__AVX512F__)
template <>
struct Simd<float> {
  using Vector = float16;
  using Half = float8;
  using Label = int32_t;
  using Labels = int16;
  static constexpr int kRows = 8, kVectors = 3;
};
template <>
struct Simd<double> {
  using Vector = double8;
  using Half = double4;
  using Label = int64_t;
  using Labels = long8;
  static constexpr int kRows = 8, kVectors = 3;
};
#elif defined(__AVX2__)
template <>
struct Simd<float> {
  using Vector = float8;
  using Half = float8;
  using Label = int32_t;
  using Labels = int8;
  static constexpr int kRows = 4, kVectors = 3;
};
template <>
struct Simd<double> {
  using Vector = double4;
  using Half = double4;
  using Label = int64_t;
  using Labels = long4;
  static constexpr int kRows = 4, kVectors = 3;
};
#else
template <>
struct Simd<float> {
  using Vector = float4;
  using Half = float4;
  using Label = int32_t;
  using Labels = int4;
  static constexpr int kRows = 4, kVectors = 2;
};
template <>
struct Simd<double> {
  using Vector = double2;
  using Half = double2;
  using Label = int64_t;
  using Labels = long2;
  static constexpr int kRows = 4, kVectors = 2;
};
#endif

template <class V>
struct VectorTraits;
#define RPE_VECTOR_TRAITS(V, T, B)                            \
  template <>                                                 \
  struct VectorTraits<V> {                                    \
    using Element = T;                                        \
    using Bits = B;                                           \
    static constexpr int kLanes = int(sizeof(V) / sizeof(T)); \
  };
RPE_VECTOR_TRAITS(float4, float, uint4)
RPE_VECTOR_TRAITS(float8, float, uint8)
RPE_VECTOR_TRAITS(float16, float, uint16)
RPE_VECTOR_TRAITS(double2, double, ulong2)
RPE_VECTOR_TRAITS(double4, double, ulong4)
RPE_VECTOR_TRAITS(double8, double, ulong8)
#undef RPE_VECTOR_TRAITS

template <class T>
constexpr int kLanes = VectorTraits<typename Simd<T>::Vector>::kLanes;
template <class T>
constexpr int kPanel = kLanes<T> * Simd<T>::kVectors;

template <class V, class T>
RPE_FORMULA V load(const T* address) {
  V value;
  __builtin_memcpy(&value, address, sizeof(V));
  return value;
}

template <class V, class T>
RPE_FORMULA void store(T* address, V value) {
  __builtin_memcpy(address, &value, sizeof(V));
}

template <class V, class T>
RPE_FORMULA V broadcast(T value) {
  return V{} + value;
}

// a * b + c in one rounding where the variant has it; the portable variant rounds twice, everywhere alike.
#if defined(__AVX512F__) || defined(__AVX2__)
RPE_FORMULA float fma(float a, float b, float c) {
  return __builtin_fmaf(a, b, c);
}
RPE_FORMULA double fma(double a, double b, double c) {
  return __builtin_fma(a, b, c);
}
RPE_FORMULA float4 fma(float4 a, float4 b, float4 c) {
  return (float4)_mm_fmadd_ps(a, b, c);
}
RPE_FORMULA double2 fma(double2 a, double2 b, double2 c) {
  return (double2)_mm_fmadd_pd(a, b, c);
}
RPE_FORMULA float8 fma(float8 a, float8 b, float8 c) {
  return (float8)_mm256_fmadd_ps(a, b, c);
}
RPE_FORMULA double4 fma(double4 a, double4 b, double4 c) {
  return (double4)_mm256_fmadd_pd(a, b, c);
}
#if defined(__AVX512F__)
RPE_FORMULA float16 fma(float16 a, float16 b, float16 c) {
  return (float16)_mm512_fmadd_ps(a, b, c);
}
RPE_FORMULA double8 fma(double8 a, double8 b, double8 c) {
  return (double8)_mm512_fmadd_pd(a, b, c);
}
#endif
#else
template <class V>
RPE_FORMULA V fma(V a, V b, V c) {
  return a * b + c;
}
#endif

struct FusedMultiplyAdd {
  template <class V>
  RPE_LAMBDA V operator()(V a, V b, V c) const {
    return fma(a, b, c);
  }
};

template <class V>
RPE_FORMULA V exp2(V t) {
  using Traits = VectorTraits<V>;
  return exp2_polynomial<typename Traits::Element, V, typename Traits::Bits>(t, FusedMultiplyAdd{});
}

// Largest of two, lane by lane; a NaN in `a` yields `b`.
template <class V>
RPE_FORMULA V maximum(V a, V b) {
  return a > b ? a : b;
}

// Sum of the lanes in a fixed order: halves are folded in T, the last four added in double.
template <class V>
RPE_FORMULA double lane_sum(V value) {
  using T = typename VectorTraits<V>::Element;
  constexpr int lanes = VectorTraits<V>::kLanes;
  T lane[lanes];
  __builtin_memcpy(lane, &value, sizeof(V));
  int width = lanes;
  RPE_UNROLL
  for (int step = 0; step < 4; ++step) {
    if (width <= 4) break;
    width /= 2;
    for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
  }
  double total = 0;
  for (int l = 0; l < width; ++l) total += double(lane[l]);
  return total;
}

// True where any lane is not zero (a NaN counts).
template <class V>
RPE_FORMULA bool any_nonzero(V value) {
  using T = typename VectorTraits<V>::Element;
  constexpr int lanes = VectorTraits<V>::kLanes;
  T lane[lanes];
  __builtin_memcpy(lane, &value, sizeof(V));
  bool any = false;
  for (int l = 0; l < lanes; ++l) any |= lane[l] != T(0);
  return any;
}

}  // namespace RPE_SIMD
}  // namespace rpe
