// Tile primitives shared by all operators of one SIMD variant. Threads, images and formulas are not known here.
//
//   dot_tile      cosine tile: rows [n, D] (row-major) times panels [n/kPanel][D][kPanel], a functor on each micro-tile
//   accumulate    out_i += sum_j tile_ij partner_j   (kByRow), or out_j += sum_i tile_ij partner_i  (kByColumn)
//
// Shapes: row counts are multiples of kRowQuantum = 48, a multiple of every micro-tile's height and width; row-major
// rows are padded to a multiple of 32 bytes. Sums run over the partners in increasing order, from zero, and are added to
// `out` once: the order depends on the shape alone.
#pragma once

#include "../launch/block.h"
#include "simd.h"

namespace rpe {
namespace RPE_SIMD {

// One micro-tile of dot products, of MR rows with kPanel partners. The products of every element are added in the order of
// d, by the same code for every position: a.b and b.a have the same bits, whatever MR is.
template <class T, int MR>
RPE_FORMULA void dot_micro(const T* rows, int64_t stride, const T* panel, int64_t dim,
                           typename Simd<T>::Vector (&acc)[MR][Simd<T>::kVectors]) {
  using V = typename Simd<T>::Vector;
  for (int64_t d = 0; d < dim; ++d) {
    V partner[Simd<T>::kVectors];
    RPE_UNROLL
    for (int v = 0; v < Simd<T>::kVectors; ++v) partner[v] = load<V>(panel + d * kPanel<T> + v * kLanes<T>);
    RPE_UNROLL
    for (int r = 0; r < MR; ++r) {
      const V own = broadcast<V>(rows[r * stride + d]);
      RPE_UNROLL
      for (int v = 0; v < Simd<T>::kVectors; ++v) acc[r][v] = fma(own, partner[v], acc[r][v]);
    }
  }
}

template <class T, int MR>
RPE_FORMULA void clear(typename Simd<T>::Vector (&acc)[MR][Simd<T>::kVectors]) {
  using V = typename Simd<T>::Vector;
  RPE_UNROLL
  for (int r = 0; r < MR; ++r) {
    RPE_UNROLL
    for (int v = 0; v < Simd<T>::kVectors; ++v) acc[r][v] = V{};
  }
}

// NV vectors of MR outputs stay in registers over `count` partners.
template <class T, class V, int NV, int MR, bool kByRow>
RPE_KERNEL void accumulate_micro(const T* tile, int64_t tile_stride, int64_t count, const T* partner, int64_t stride,
                                 T* out) {
  constexpr int lanes = VectorTraits<V>::kLanes;
  V acc[MR][NV];
  RPE_UNROLL
  for (int r = 0; r < MR; ++r) {
    RPE_UNROLL
    for (int v = 0; v < NV; ++v) acc[r][v] = V{};
  }
  for (int64_t k = 0; k < count; ++k) {
    V row[NV];
    RPE_UNROLL
    for (int v = 0; v < NV; ++v) row[v] = load<V>(partner + k * stride + v * lanes);
    RPE_UNROLL
    for (int r = 0; r < MR; ++r) {
      const V weight = broadcast<V>(kByRow ? tile[r * tile_stride + k] : tile[k * tile_stride + r]);
      RPE_UNROLL
      for (int v = 0; v < NV; ++v) acc[r][v] = fma(weight, row[v], acc[r][v]);
    }
  }
  RPE_UNROLL
  for (int r = 0; r < MR; ++r) {
    RPE_UNROLL
    for (int v = 0; v < NV; ++v) {
      T* address = out + r * stride + v * lanes;
      store(address, load<V>(address) + acc[r][v]);
    }
  }
}

template <class T, class V, int NV, bool kByRow>
RPE_FORMULA void accumulate_group(const T* tile, int64_t tile_stride, int64_t count, const T* partner, int64_t stride,
                                  T* out) {
  constexpr int rows = NV == 1 ? 8 : Simd<T>::kRows;
  RPE_UNROLL
  for (int r = 0; r < 8; r += rows) {
    accumulate_micro<T, V, NV, rows, kByRow>(tile + (kByRow ? r * tile_stride : r), tile_stride, count, partner, stride,
                                             out + r * stride);
  }
}

constexpr int kOutputGroup = 8;

// Eight outputs, all of their dimensions. `stride` is the padded row length of `partner` and `out`.
template <class T, bool kByRow>
RPE_FORMULA void accumulate_eight(const T* tile, int64_t tile_stride, int64_t count, const T* partner, int64_t stride,
                                  T* out) {
  using V = typename Simd<T>::Vector;
  using H = typename Simd<T>::Half;
  int64_t d = 0;
  for (; d + 3 * kLanes<T> <= stride && d + 4 * kLanes<T> != stride; d += 3 * kLanes<T>)
    accumulate_group<T, V, 3, kByRow>(tile, tile_stride, count, partner + d, stride, out + d);
  for (; d + 2 * kLanes<T> <= stride; d += 2 * kLanes<T>)
    accumulate_group<T, V, 2, kByRow>(tile, tile_stride, count, partner + d, stride, out + d);
  for (; d + kLanes<T> <= stride; d += kLanes<T>)
    accumulate_group<T, V, 1, kByRow>(tile, tile_stride, count, partner + d, stride, out + d);
  for (; d < stride; d += VectorTraits<H>::kLanes)
    accumulate_group<T, H, 1, kByRow>(tile, tile_stride, count, partner + d, stride, out + d);
}

// out[i] += sum_j tile[i][j] partner[j], i < num_rows, j < num_columns.
template <class T>
RPE_FORMULA void accumulate_rows(const T* tile, int64_t tile_stride, int64_t num_rows, int64_t num_columns,
                                 const T* partner, int64_t stride, T* out) {
  for (int64_t i = 0; i < num_rows; i += kOutputGroup)
    accumulate_eight<T, true>(tile + i * tile_stride, tile_stride, num_columns, partner, stride, out + i * stride);
}

// out[j] += sum_i tile[i][j] partner[i], i < num_rows, j < num_columns.
template <class T>
RPE_FORMULA void accumulate_columns(const T* tile, int64_t tile_stride, int64_t num_rows, int64_t num_columns,
                                    const T* partner, int64_t stride, T* out) {
  for (int64_t j = 0; j < num_columns; j += kOutputGroup)
    accumulate_eight<T, false>(tile + j, tile_stride, num_rows, partner, stride, out + j * stride);
}

// Row-major rows [kRowQuantum-multiple, stride] to panels [..][dim][kPanel].
template <class T>
RPE_FORMULA void pack_panels(const T* rows, int64_t num_rows, int64_t stride, int64_t dim, T* panels) {
  for (int64_t first = 0; first < num_rows; first += kPanel<T>) {
    T* panel = panels + first * dim;
    for (int64_t d = 0; d < dim; ++d) {
      for (int64_t lane = 0; lane < kPanel<T>; ++lane) panel[d * kPanel<T> + lane] = rows[(first + lane) * stride + d];
    }
  }
}

}  // namespace RPE_SIMD
}  // namespace rpe
