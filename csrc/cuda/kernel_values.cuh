// Exponentials of cosines: values of the von Mises-Fisher kernel for a chunk of pairs.
#pragma once

#include "../math/exp2.h"
#include "walk.cuh"

#include <cmath>

namespace rpe {
namespace cuda {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLargestFloat = 3.0e38f;
// Kernel values are at most 1. As operands they are multiplied by 2^7, so that the 11 bits of float16 reach down to 2^-21,
// and the last of them to 2^-31.
constexpr float kScaleExponent = 7.0f;
constexpr float kScale = 128.0f;
// Where a fixed shift leaves a row less than this of its scaled density, kappa is above 1e7: rounding alone decides between
// neighbours, and weights have fallen out of float16. The row stays, as one without mass does.
constexpr float kLeastDensity = 0x1p-14f;

// kappa log2(e), so that exponents are powers of two; finite for every float32 kappa.
RPE_DEVICE float log2_concentration(const float* kappa) {
  return fminf(*kappa * kLog2E, kLargestFloat);
}

// 2^t for t <= 127 on the FMA pipe, for a float16 operand; at least 2^-126.
RPE_DEVICE float exp2_multiply_add(float t) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it leaves the integer part in the low bits
  const float limited = fmaxf(t, -126.0f);
  const float shifted = limited + kMagic;
  const float fraction = limited - (shifted - kMagic);
  const float value = exp2_fraction<Exp2Half, float>(fraction, [](float a, float b, float c) { return fmaf(a, b, c); });
  return bits_float(float_bits(value) + (float_bits(shifted) << 23));
}

// 2^((c - largest) kappa), times 2^kScaleExponent. float32-grade operands earn the exact difference of near cosines; with
// half ones a single multiply-add serves, and of eight exponentials kPolynomials leave the special function unit.
template <class T>
RPE_DEVICE void kernel_values(Chunk& value, const Chunk& cosine, const float (&largest)[2], float kappa) {
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const float c = cosine[k / 4][k % 4], top = largest[k % 4 / 2];
    if constexpr (T::kSplit) {
      value[k / 4][k % 4] = exp2_approximate(fmaf(c - top, kappa, kScaleExponent));
    } else {
      const float exponent = fmaf(c, kappa, kScaleExponent - top * kappa);
      value[k / 4][k % 4] = k < T::kPolynomials ? exp2_multiply_add(exponent) : exp2_approximate(exponent);
    }
  }
}

// Takes the excess of the rows' and the columns' lengths out of cosines. `column_excess` is that of the lane's first column.
template <class T>
RPE_DEVICE void correct_lengths(Chunk (&cosine)[T::kRowTiles], const RowNumbers<T>& row_excess,
                                const float* column_excess) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const float excess = shared_load(column_excess + k / 2 * 8 + k % 2);
#pragma unroll
    for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) cosine[m][k / 2][2 * half + k % 2] -= row_excess[m][half] + excess;
    }
  }
}

// Sets entries whose column, counted from the chunk's first, is not below `columns` to 0.
RPE_DEVICE void clear_outside(Chunk& value, int columns) {
  const int first = lane_index() % 4 * 2;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    if (k / 4 * 8 + first + k % 2 >= columns) value[k / 4][k % 4] = 0.0f;
  }
}

// The reference of a row's sums when no bound is known: the largest cosine so far, and the largest exponent relative to it.
// An exponent is (c - nearest) kappa + bias - level: cosines are subtracted before kappa multiplies them, since the
// difference of near cosines is exact. Before the first mass both are -inf.
template <class T>
struct RunningReference {
  RowNumbers<T> nearest, level;

  RPE_DEVICE_MEMBER void clear() {
#pragma unroll
    for (int k = 0; k < 2 * T::kRowTiles; ++k) nearest[k / 2][k % 2] = level[k / 2][k % 2] = -INFINITY;
  }
  RPE_DEVICE_MEMBER static float finite(float value) { return value == -INFINITY ? 0.0f : value; }

  // The factors that make sums relative to an older reference relative to this one; 0 where that had met no mass.
  RPE_DEVICE_MEMBER void factors(RowNumbers<T>& factor, const RunningReference& older, float kappa) const {
#pragma unroll
    for (int k = 0; k < 2 * T::kRowTiles; ++k) {
      const float before = older.nearest[k / 2][k % 2];
      const float exponent = fmaf(before - finite(nearest[k / 2][k % 2]), kappa, older.level[k / 2][k % 2]);
      factor[k / 2][k % 2] = before == -INFINITY ? 0.0f : exp2_approximate(exponent - finite(level[k / 2][k % 2]));
    }
  }

  // Kernel values of a chunk, not scaled. bias[n][e] is the log2 mass of column 8 n + 2 (lane % 4) + e, -inf for none.
  // Where a row's reference grows, rescale(m, half, factor) is asked to multiply its older sums.
  template <class Rescale>
  RPE_DEVICE_MEMBER void values(Chunk (&value)[T::kRowTiles], const Chunk (&cosine)[T::kRowTiles],
                                const float (&bias)[2][2], float kappa, const Rescale& rescale) {
    bool grows = false;
#pragma unroll
    for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const float b = bias[k / 4][k % 2], c = cosine[m][k / 4][k % 4];
        const float own = nearest[m][k % 4 / 2];
        grows |= b != -INFINITY && (c > own || (c - own) * kappa + b > level[m][k % 4 / 2]);
      }
    }
    if (any_in_warp(grows)) raise(cosine, bias, kappa, rescale);
#pragma unroll
    for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const float b = bias[k / 4][k % 2];
        const int half = k % 4 / 2;
        const float exponent =
            fmaf(cosine[m][k / 4][k % 4] - finite(nearest[m][half]), kappa, b) - finite(level[m][half]);
        value[m][k / 4][k % 4] = b == -INFINITY ? 0.0f : exp2_approximate(exponent);
      }
    }
  }

 private:
  template <class Rescale>
  RPE_DEVICE_MEMBER void raise(const Chunk (&cosine)[T::kRowTiles], const float (&bias)[2][2], float kappa,
                               const Rescale& rescale) {
#pragma unroll
    for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float reach = -INFINITY;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          if (bias[k / 2][k % 2] != -INFINITY) reach = fmaxf(reach, cosine[m][k / 2][2 * half + k % 2]);
        }
        reach = fmaxf(quad_maximum(reach), nearest[m][half]);
        const float known = finite(reach);
        float top = -INFINITY;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const float b = bias[k / 2][k % 2];
          if (b != -INFINITY) top = fmaxf(top, fmaf(cosine[m][k / 2][2 * half + k % 2] - known, kappa, b));
        }
        const float former =
            nearest[m][half] == -INFINITY ? -INFINITY : fmaf(nearest[m][half] - known, kappa, level[m][half]);
        top = fmaxf(quad_maximum(top), former);
        rescale(m, half, exp2_approximate(former - finite(top)));
        nearest[m][half] = reach;
        level[m][half] = top;
      }
    }
  }
};

// What the splits' references (nearest, level), [splits, rows] with `stride` between splits, have in common.
struct CommonReference {
  float nearest, level;  // 0 for a row without mass

  RPE_DEVICE_MEMBER static float relative(float own, float level, float nearest, float kappa) {
    return own == -INFINITY ? -INFINITY : fmaf(own - nearest, kappa, level);
  }
  RPE_DEVICE_MEMBER void find(const float* nearest_of, const float* level_of, int64_t row, int64_t stride, int splits,
                              float kappa) {
    nearest = level = -INFINITY;
    for (int split = 0; split < splits; ++split) nearest = fmaxf(nearest, nearest_of[split * stride + row]);
    if (nearest == -INFINITY) nearest = 0.0f;
    for (int split = 0; split < splits; ++split) {
      const int64_t place = split * stride + row;
      level = fmaxf(level, relative(nearest_of[place], level_of[place], nearest, kappa));
    }
    if (level == -INFINITY) level = 0.0f;
  }
  // The factor that makes one split's sums relative to this reference.
  RPE_DEVICE_MEMBER float share(float own, float own_level, float kappa) const {
    return exp2_approximate(relative(own, own_level, nearest, kappa) - level);
  }
};

// What a chunk's columns add to exponents: log2 mass, less kappa times the excess of their lengths, both from a stage. -inf
// from `columns` on.
RPE_DEVICE void chunk_bias(float (&bias)[2][2], const float* log_weight, const float* excess, float kappa, int column,
                           int columns) {
  const int first = lane_index() % 4 * 2;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int place = k / 2 * 8 + first + k % 2;
    const float mass = log_weight == nullptr ? 0.0f : shared_load(log_weight + column + place) * kLog2E;
    bias[k / 2][k % 2] = place < columns ? fmaf(-kappa, shared_load(excess + column + place), mass) : -INFINITY;
  }
}

}  // namespace cuda
}  // namespace rpe
