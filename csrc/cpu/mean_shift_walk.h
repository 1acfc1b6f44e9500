// Rows that walk over sources with a reference of their own: one tile, and how the results of several walks are merged.
//
// A row's reference is the largest logit it has met (fixed route: the logit of a cosine of 1). What it has summed is
// relative to that, and is scaled where the reference rises. Which rows meet which sources is the callers' own.
#pragma once

#include "mean_shift.h"

namespace rpe {
namespace RPE_SIMD {

// What some consecutive rows have summed; pointers to the first.
template <class T>
struct Walk {
  const T* rows;  // [.., stride]
  T* sums;        // [.., stride]
  double* density;
  T *reference, *reference_bias;
};

// Some consecutive sources; pointers to the first.
template <class T>
struct SourceTile {
  const T *panels, *rows, *bias;
  int64_t count;  // a multiple of kPanel
};

// Rows of a chunk that begins at row i of a block, up to the height of a micro-tile.
RPE_FORMULA int64_t walking_rows(const Block& block, int64_t i) {
  const int64_t left = (block.valid - i + kOutputGroup - 1) / kOutputGroup * kOutputGroup;
  return left < kTileRows ? left : kTileRows;
}

template <class T>
RPE_KERNEL void cosine_tile(const Operand<T>& rows, int64_t num_rows, const Operand<T>& sources, int64_t count,
                            Tile<T>& tile) {
  using S = Simd<T>;
  typename S::Vector cosine[S::kRows][S::kVectors];
  for (int64_t j = 0; j < count; j += kPanel<T>) {
    for (int64_t i = 0; i < num_rows; i += S::kRows) {
      clear<T>(cosine);
      dot_micro(rows, i, sources, j, cosine);
      store_micro(tile, i, j, cosine);
    }
  }
}

// Raises the row's reference to the largest logit of this tile, and returns the factor for all that was summed so far.
// Differences are taken before the multiplication by kappa: they stay exact where kappa * cosine would not.
template <class T>
RPE_KERNEL T raise_reference(const T* cosine, const T* bias, int64_t count, T scale, T& reference, T& reference_bias) {
  using V = typename Simd<T>::Vector;
  T factor = 1;
  if (!(reference_bias > -T(__builtin_inf()))) {
    factor = 0;
    int64_t j = 0;
    while (j < count && !(bias[j] > -T(__builtin_inf()))) ++j;
    if (j == count) return factor;
    reference = cosine[j];
    reference_bias = bias[j];
  }
  // A second look is needed only where rounding hid a difference; the caller's clamp at 0 covers what is left.
  constexpr int kAttempts = 4;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    V largest = V{};
    const V own = broadcast<V>(reference), own_bias = broadcast<V>(reference_bias);
    for (int64_t j = 0; j < count; j += kLanes<T>) {
      const V difference = fma(broadcast<V>(scale), load<V>(cosine + j) - own, load<V>(bias + j) - own_bias);
      largest = maximum(difference, largest);
    }
    T lane[kLanes<T>];
    store(lane, largest);
    T top = 0;
    for (int l = 0; l < kLanes<T>; ++l) top = lane[l] > top ? lane[l] : top;
    if (!(top > T(0))) break;
    for (int64_t j = 0; j < count; ++j) {
      if (fma(scale, cosine[j] - reference, bias[j] - reference_bias) == top) {
        reference = cosine[j];
        reference_bias = bias[j];
        break;
      }
    }
    const V negated = broadcast<V>(-top);
    T power[kLanes<T>];
    store(power, exp2(negated));
    factor *= power[0];
  }
  return factor;
}

// One row of logits to kernel values relative to the row's reference, in place. Returns their sum.
template <class T>
RPE_KERNEL double relative_weights(T* cosine, const T* bias, int64_t count, T scale, T reference, T reference_bias,
                                   T ceiling) {
  using V = typename Simd<T>::Vector;
  V sum = V{};
  if (!(reference_bias > -T(__builtin_inf()))) {
    for (int64_t j = 0; j < count; ++j) cosine[j] = T(0);
    return 0.0;
  }
  const V own = broadcast<V>(reference), own_bias = broadcast<V>(reference_bias);
  for (int64_t j = 0; j < count; j += kLanes<T>) {
    const V weight = relative_weight(load<V>(cosine + j), load<V>(bias + j), broadcast<V>(scale), own, own_bias,
                                     broadcast<V>(ceiling));
    store(cosine + j, weight);
    sum = sum + weight;
  }
  return lane_sum(sum);
}

// `num_rows` rows meet some sources: cosines, kernel values and sums; the tile is scratch.
template <class T>
RPE_FORMULA void walk(const MeanShift<T>& p, const Walk<T>& own, int64_t num_rows, const SourceTile<T>& sources,
                      bool fixed, bool with_mean, Tile<T>& tile) {
  const T scale = logit_scale(p.kappa);
  const Operand<T> rows = {own.rows, nullptr, p.stride, p.dim};
  const Operand<T> partners = {sources.rows, sources.panels, p.stride, p.dim};
  cosine_tile(rows, num_rows, partners, sources.count, tile);
  for (int64_t r = 0; r < num_rows; ++r) {
    T *line = tile.values + r * kMaxColumns, *reference = own.reference + r, *reference_bias = own.reference_bias + r;
    if (!fixed) {
      const T factor = raise_reference<T>(line, sources.bias, sources.count, scale, *reference, *reference_bias);
      if (factor != T(1)) {
        own.density[r] *= double(factor);
        if (with_mean)
          for (int64_t d = 0; d < p.stride; ++d) own.sums[r * p.stride + d] *= factor;
      }
    }
    own.density[r] += relative_weights<T>(line, sources.bias, sources.count, scale, *reference, *reference_bias,
                                          logit_ceiling<T>(fixed));
  }
  if (with_mean) accumulate_rows(tile, num_rows, 0, sources.count, partners, 0, own.sums);
}

// Adds what one row has summed in another walk. The larger reference becomes that of both.
template <class T>
RPE_KERNEL void merge_walk(const MeanShift<T>& p, const Walk<T>& own, const Walk<T>& other) {
  using H = typename Simd<T>::Half;
  if (!(*other.reference_bias > -T(__builtin_inf()))) return;
  const bool first = !(*own.reference_bias > -T(__builtin_inf()));
  const T rise =
      first ? T(0)
            : fma(logit_scale(p.kappa), *other.reference - *own.reference, *other.reference_bias - *own.reference_bias);
  T power[VectorTraits<H>::kLanes];
  store(power, exp2(broadcast<H>(rise > T(0) ? -rise : rise)));
  const T own_factor = rise > T(0) ? power[0] : T(1), factor = rise > T(0) ? T(1) : power[0];
  if (first || rise > T(0)) {
    *own.reference = *other.reference;
    *own.reference_bias = *other.reference_bias;
  }
  *own.density = double(own_factor) * *own.density + double(factor) * *other.density;
  for (int64_t d = 0; d < p.stride; ++d) own.sums[d] = own_factor * own.sums[d] + factor * other.sums[d];
}

}  // namespace RPE_SIMD
}  // namespace rpe
