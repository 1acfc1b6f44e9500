// What the forward and backward mean-shift kernels share: tile shape, scales, the weight of one logit, and which columns
// a tile of rows has to see.
#pragma once

#include "../launch/mean_shift.h"
#include "bfloat16_tiles.h"
#include "bounds.h"

namespace rpe {
namespace RPE_SIMD {

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

// What the blurring kernels of the fixed route multiply: the rows themselves, or their bfloat16 copies. Of a product of
// copies both rows' excess is taken off: x'.y' - |x'|^2/2 - |y'|^2/2 = -|x' - y'|^2/2, so that what matters is how far
// rounding moves rows that are near from each other, and not how long it makes them.
template <class T>
struct FullProducts {
  static constexpr bool kHalf = false;
  using Values = Tile<T>;
  RPE_FORMULA Operand<T> points(const MeanShift<T>& p) { return {p.point_rows, p.source_panels, p.stride, p.dim}; }
  RPE_FORMULA Operand<T> masses(const MeanShift<T>& p) { return {p.mass_rows, p.mass_panels, p.stride, p.dim}; }
  RPE_FORMULA Operand<T> slopes(const MeanShift<T>& p) { return {p.slope_rows, p.slope_panels, p.stride, p.dim}; }
};

#if defined(__AVX512BF16__)
struct HalfProducts {
  static constexpr bool kHalf = true;
  using Values = HalfTile;
  RPE_FORMULA HalfRows points(const MeanShift<float>& p) { return p.half_points; }
  RPE_FORMULA HalfRows masses(const MeanShift<float>& p) { return p.half_masses; }
  RPE_FORMULA HalfRows slopes(const MeanShift<float>& p) { return p.half_slopes; }
};
#endif

// Rows of a block to the bfloat16 copies of the same rows. Only float has such.
template <class T>
RPE_FORMULA void pack_half(const T* rows, const Block& block, int64_t dim, const HalfRows& half) {
  if constexpr (sizeof(T) == sizeof(float))
    pack_half_rows(rows + block.row * half.stride, block.rows, dim, block.row, half);
}

template <class T>
RPE_FORMULA Chunks<T> chunks_of_points(const MeanShift<T>& p) {
  return {p.point_chunks, p.point_centers, p.point_panels, p.stride, p.dim};
}
template <class T>
RPE_FORMULA Chunks<T> chunks_of_sources(const MeanShift<T>& p) {
  return {p.source_chunks, p.source_centers, p.source_panels, p.stride, p.dim};
}

// Columns [first, first + count) of a block.
struct ColumnRun {
  int64_t first, count;
};

struct ColumnRuns {
  ColumnRun run[kMaxColumns / kRowQuantum];
  int64_t count;
  const ColumnRun* begin() const { return run; }
  const ColumnRun* end() const { return run + count; }
};

// The columns of a block that kTileRows rows have to see. kSymmetric: or that have to see one of these rows.
template <class T, bool kSymmetric>
RPE_KERNEL void near_columns(const MeanShift<T>& p, int64_t row, const Block& columns, ColumnRuns& runs) {
  runs.run[0] = {0, columns.rows};
  runs.count = 1;
  const int64_t own = row / kRowQuantum;
  if (!p.least_cosine || p.least_cosine[own] == -T(__builtin_inf())) return;
  runs.count = 0;
  const Chunks<T> points = chunks_of_points(p), sources = chunks_of_sources(p);
  bool open = false;
  for (int64_t j = 0; j < columns.rows; j += kRowQuantum) {
    const int64_t other = (columns.row + j) / kRowQuantum;
    T bound = p.least_cosine[own];
    if (kSymmetric) bound = p.least_cosine[other] >= bound ? bound : p.least_cosine[other];
    const bool far = all_below(points, own, sources, other, bound);
    if (!far && !open) runs.run[runs.count++] = {j, 0};
    if (!far) runs.run[runs.count - 1].count += kRowQuantum;
    open = !far;
  }
}

}  // namespace RPE_SIMD
}  // namespace rpe
