// Tile primitives shared by all operators of one SIMD variant. Threads, images and formulas are not known here.
//
//   dot_micro          a micro-tile of products, in registers: rows [n, D] (row-major) times panels [n/kPanel][D][kPanel]
//   store_micro        what was made of them, to a tile
//   accumulate_group   out_i += sum_j tile_ij partner_j   (kByRow), or out_j += sum_i tile_ij partner_i
//
// Kernels written with an Operand and a Tile run with HalfRows and a HalfTile too (bfloat16_tiles.h).
//
// Shapes: row counts are multiples of kRowQuantum = 48, a multiple of every micro-tile's height and width; row-major
// rows are padded to a multiple of 32 bytes. Sums run over the partners in increasing order, from zero, and are added to
// `out` once: the order depends on the shape alone.
#pragma once

#include "../launch/block.h"
#include "../launch/plan.h"
#include "simd.h"

namespace rpe {
namespace RPE_SIMD {

constexpr int64_t kTileRows = kRowQuantum;
constexpr int64_t kMaxColumns = kMaxBlockRows;
constexpr int kOutputGroup = 8;

// Rows in the two forms that products read.
template <class T>
struct Operand {
  const T *rows, *panels;
  int64_t stride, dim;
};

// Some values of kTileRows rows against the columns of a block.
template <class T>
struct Tile {
  T values[kTileRows * kMaxColumns];
};

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
RPE_FORMULA void dot_micro(const Operand<T>& own, int64_t row, const Operand<T>& other, int64_t column,
                           typename Simd<T>::Vector (&acc)[MR][Simd<T>::kVectors]) {
  dot_micro<T>(own.rows + row * own.stride, own.stride, other.panels + column * other.dim, own.dim, acc);
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

// MR rows from row i on, kPanel columns from column j on.
template <class T, int MR>
RPE_FORMULA void store_micro(Tile<T>& tile, int64_t i, int64_t j,
                             const typename Simd<T>::Vector (&values)[MR][Simd<T>::kVectors]) {
  RPE_UNROLL
  for (int r = 0; r < MR; ++r) {
    RPE_UNROLL
    for (int v = 0; v < Simd<T>::kVectors; ++v)
      store(tile.values + (i + r) * kMaxColumns + j + v * kLanes<T>, values[r][v]);
  }
}

// The values of columns j, j + 1, ... of row i.
template <class T>
RPE_FORMULA typename Simd<T>::Vector load_vector(const Tile<T>& tile, int64_t i, int64_t j) {
  return load<typename Simd<T>::Vector>(tile.values + i * kMaxColumns + j);
}

// NV vectors of MR outputs stay in registers over `count` partners.
template <class T, class V, int NV, int MR, bool kByRow>
RPE_KERNEL void accumulate_micro(const T* tile, int64_t count, const T* partner, int64_t stride, T* out) {
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
      const V weight = broadcast<V>(kByRow ? tile[r * kMaxColumns + k] : tile[k * kMaxColumns + r]);
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
RPE_FORMULA void accumulate_vectors(const T* tile, int64_t count, const T* partner, int64_t stride, T* out) {
  constexpr int rows = NV == 1 ? kOutputGroup : Simd<T>::kRows;
  RPE_UNROLL
  for (int r = 0; r < kOutputGroup; r += rows)
    accumulate_micro<T, V, NV, rows, kByRow>(tile + (kByRow ? r * kMaxColumns : r), count, partner, stride,
                                             out + r * stride);
}

// kByRow: out_i += sum_j tile_ij partner_j for kOutputGroup rows from i on and `count` columns from j on, the first partner
// being row `first`; else out_j += sum_i tile_ij partner_i for kOutputGroup columns and `count` rows.
template <bool kByRow, class T>
RPE_FORMULA void accumulate_group(const Tile<T>& values, int64_t i, int64_t j, int64_t count,
                                  const Operand<T>& partners, int64_t first, T* out) {
  using V = typename Simd<T>::Vector;
  using H = typename Simd<T>::Half;
  const T* tile = values.values + i * kMaxColumns + j;
  const int64_t stride = partners.stride;
  const T* partner = partners.rows + first * stride;
  int64_t d = 0;
  for (; d + 3 * kLanes<T> <= stride && d + 4 * kLanes<T> != stride; d += 3 * kLanes<T>)
    accumulate_vectors<T, V, 3, kByRow>(tile, count, partner + d, stride, out + d);
  for (; d + 2 * kLanes<T> <= stride; d += 2 * kLanes<T>)
    accumulate_vectors<T, V, 2, kByRow>(tile, count, partner + d, stride, out + d);
  for (; d + kLanes<T> <= stride; d += kLanes<T>)
    accumulate_vectors<T, V, 1, kByRow>(tile, count, partner + d, stride, out + d);
  for (; d < stride; d += VectorTraits<H>::kLanes)
    accumulate_vectors<T, H, 1, kByRow>(tile, count, partner + d, stride, out + d);
}

// out[i] += sum_j tile[i][j] partner[j] for the first `num_rows` rows and `count` columns from `column` on; partner j is row
// `first` + j of the operand.
template <class Values, class Rows, class T>
RPE_FORMULA void accumulate_rows(const Values& tile, int64_t num_rows, int64_t column, int64_t count,
                                 const Rows& partners, int64_t first, T* out) {
  for (int64_t i = 0; i < num_rows; i += kOutputGroup)
    accumulate_group<true>(tile, i, column, count, partners, first, out + i * partners.stride);
}

// out[j] += sum_i tile[i][j] partner[i] for `count` columns from `column` on and `num_rows` rows from `row` on; partner i is
// row `first` + i - row of the operand.
template <class Values, class Rows, class T>
RPE_FORMULA void accumulate_columns(const Values& tile, int64_t row, int64_t num_rows, int64_t column, int64_t count,
                                    const Rows& partners, int64_t first, T* out) {
  for (int64_t j = 0; j < count; j += kOutputGroup)
    accumulate_group<false>(tile, row, column + j, num_rows, partners, first, out + j * partners.stride);
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
