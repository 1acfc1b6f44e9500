// The tile primitives of tiles.h with products of bfloat16 copies of float rows, summed in float: two products per lane
// and instruction, where the CPU has that instruction (AVX512_BF16).
//
//   dot_micro              as there, two dimensions at a time
//   store_micro            kernel values to a tile, in the two orders in which `accumulate` reads pairs of them
//   accumulate_group       as there, two partners at a time
//
// Copies are rounded to nearest; numbers below 2^-126 count as zero. Every product of a pair is exact, sums are float's.
// a.b and b.a have the same bits, as there.
#pragma once

#include "../launch/half_rows.h"
#include "tiles.h"

namespace rpe {
namespace RPE_SIMD {

RPE_FORMULA uint16_t bfloat16_bits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// The nearest bfloat16 number; a double is left as it is.
RPE_FORMULA float bfloat16_rounded(float value) {
  const uint32_t bits = uint32_t(bfloat16_bits(value)) << 16;
  __builtin_memcpy(&value, &bits, sizeof(bits));
  return value;
}
RPE_FORMULA double bfloat16_rounded(double value) {
  return value;
}

RPE_FORMULA uint32_t bfloat16_pair(float first, float second) {
  return uint32_t(bfloat16_bits(first)) | uint32_t(bfloat16_bits(second)) << 16;
}

// Row-major rows [multiple of kRowQuantum, stride] to rows `first`, ... of the copies. Finite values.
RPE_FORMULA void pack_half_partners(const float* rows, int64_t num_rows, int64_t first, const HalfRows& half) {
  const int64_t stride = half.stride;
  for (int64_t i = 0; i < num_rows; i += 2) {
    uint32_t* out = half.partners + (first + i) / 2 * stride;
    for (int64_t d = 0; d < stride; ++d) out[d] = bfloat16_pair(rows[i * stride + d], rows[(i + 1) * stride + d]);
  }
}

RPE_FORMULA void pack_half_rows(const float* rows, int64_t num_rows, int64_t dim, int64_t first, const HalfRows& half) {
  pack_half_partners(rows, num_rows, first, half);
  const int64_t pairs = half.pairs_of_dim;
  for (int64_t i = 0; i < num_rows; ++i) {
    const float* row = rows + i * half.stride;
    uint32_t* out = half.rows + (first + i) * pairs;
    for (int64_t d = 0; d < pairs; ++d) out[d] = bfloat16_pair(row[2 * d], 2 * d + 1 < dim ? row[2 * d + 1] : 0.0f);
  }
  for (int64_t begin = 0; begin < num_rows; begin += kPanel<float>) {
    uint32_t* panel = half.panels + (first + begin) * pairs;
    for (int64_t d = 0; d < pairs; ++d) {
      for (int64_t lane = 0; lane < kPanel<float>; ++lane)
        panel[d * kPanel<float> + lane] = half.rows[(first + begin + lane) * pairs + d];
    }
  }
}

#if defined(__AVX512BF16__)

// Some kernel values: pairs of columns row by row, and pairs of rows, column by column.
struct HalfTile {
  uint16_t by_row[kTileRows * kMaxColumns];
  uint32_t by_column[kTileRows / 2 * kMaxColumns];
};

RPE_FORMULA float16 add_product(uint16 a, uint16 b, float16 sum) {
  return (float16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
RPE_FORMULA float8 add_product(uint8 a, uint8 b, float8 sum) {
  return (float8)_mm256_dpbf16_ps((__m256)sum, (__m256bh)a, (__m256bh)b);
}

template <int MR>
RPE_FORMULA void dot_micro(const HalfRows& own, int64_t row, const HalfRows& other, int64_t column,
                           float16 (&acc)[MR][Simd<float>::kVectors]) {
  constexpr int vectors = Simd<float>::kVectors;
  const int64_t pairs = own.pairs_of_dim;
  const uint32_t *rows = own.rows + row * pairs, *panel = other.panels + column * pairs;
  for (int64_t d = 0; d < pairs; ++d) {
    uint16 partner[vectors];
    RPE_UNROLL
    for (int v = 0; v < vectors; ++v) partner[v] = load<uint16>(panel + d * kPanel<float> + v * kLanes<float>);
    RPE_UNROLL
    for (int r = 0; r < MR; ++r) {
      const uint16 pair = broadcast<uint16>(rows[r * pairs + d]);
      RPE_UNROLL
      for (int v = 0; v < vectors; ++v) acc[r][v] = add_product(pair, partner[v], acc[r][v]);
    }
  }
}

// MR rows from row i on, kPanel columns from column j on; i and MR are even.
template <int MR>
RPE_FORMULA void store_micro(HalfTile& tile, int64_t i, int64_t j, const float16 (&values)[MR][Simd<float>::kVectors]) {
  // Lane l of the first row, lane l of the second, lane l + 1 of the first, ...
  const uint16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const __m512i interleave = (__m512i)(lane | (lane + 16) << 16);
  constexpr __mmask8 kAll = 0xff;  // without a mask g++ 12 warns of its own header
  RPE_UNROLL
  for (int r = 0; r < MR; r += 2) {
    RPE_UNROLL
    for (int v = 0; v < Simd<float>::kVectors; ++v) {
      const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)values[r + 1][v], (__m512)values[r][v]);
      const int64_t column = j + v * kLanes<float>;
      store(tile.by_row + (i + r) * kMaxColumns + column, _mm512_maskz_extracti64x4_epi64(kAll, both, 0));
      store(tile.by_row + (i + r + 1) * kMaxColumns + column, _mm512_maskz_extracti64x4_epi64(kAll, both, 1));
      store(tile.by_column + (i + r) / 2 * kMaxColumns + column, _mm512_permutexvar_epi16(interleave, both));
    }
  }
}

// The values of columns j, j + 1, ... of row i as they were stored.
RPE_FORMULA float16 load_vector(const HalfTile& tile, int64_t i, int64_t j) {
  typedef uint16_t short16 __attribute__((vector_size(32)));
  const short16 bits = load<short16>(tile.by_row + i * kMaxColumns + j);
  return (float16)(__builtin_convertvector(bits, uint16) << 16);
}

template <class V, int NV, bool kByRow>
RPE_KERNEL void accumulate_pairs(const HalfTile& tile, int64_t i, int64_t j, int64_t count, const uint32_t* partner,
                                 int64_t stride, float* out) {
  using Pairs = typename VectorTraits<V>::Bits;
  constexpr int lanes = VectorTraits<V>::kLanes;
  V acc[kOutputGroup][NV];
  RPE_UNROLL
  for (int r = 0; r < kOutputGroup; ++r) {
    RPE_UNROLL
    for (int v = 0; v < NV; ++v) acc[r][v] = V{};
  }
  for (int64_t k = 0; k < count; k += 2) {
    Pairs row[NV];
    RPE_UNROLL
    for (int v = 0; v < NV; ++v) row[v] = load<Pairs>(partner + k / 2 * stride + v * lanes);
    RPE_UNROLL
    for (int r = 0; r < kOutputGroup; ++r) {
      uint32_t pair;
      if (kByRow) {
        __builtin_memcpy(&pair, tile.by_row + (i + r) * kMaxColumns + j + k, sizeof(pair));
      } else {
        pair = tile.by_column[(i + k) / 2 * kMaxColumns + j + r];
      }
      const Pairs weight = broadcast<Pairs>(pair);
      RPE_UNROLL
      for (int v = 0; v < NV; ++v) acc[r][v] = add_product(weight, row[v], acc[r][v]);
    }
  }
  RPE_UNROLL
  for (int r = 0; r < kOutputGroup; ++r) {
    RPE_UNROLL
    for (int v = 0; v < NV; ++v) {
      float* address = out + r * stride + v * lanes;
      store(address, load<V>(address) + acc[r][v]);
    }
  }
}

// kByRow: out_i += sum_j tile_ij partner_j for kOutputGroup rows from i on and `count` columns from j on, partner j being
// row `first`; else out_j += sum_i tile_ij partner_i for kOutputGroup columns and `count` rows, partner i being row `first`.
template <bool kByRow>
RPE_FORMULA void accumulate_group(const HalfTile& tile, int64_t i, int64_t j, int64_t count, const HalfRows& partners,
                                  int64_t first, float* out) {
  const int64_t stride = partners.stride;
  const uint32_t* partner = partners.partners + first / 2 * stride;
  constexpr int64_t lanes = kLanes<float>;
  int64_t d = 0;
  for (; d + 3 * lanes <= stride && d + 4 * lanes != stride; d += 3 * lanes)
    accumulate_pairs<float16, 3, kByRow>(tile, i, j, count, partner + d, stride, out + d);
  for (; d + 2 * lanes <= stride; d += 2 * lanes)
    accumulate_pairs<float16, 2, kByRow>(tile, i, j, count, partner + d, stride, out + d);
  for (; d + lanes <= stride; d += lanes)
    accumulate_pairs<float16, 1, kByRow>(tile, i, j, count, partner + d, stride, out + d);
  for (; d < stride; d += VectorTraits<float8>::kLanes)
    accumulate_pairs<float8, 1, kByRow>(tile, i, j, count, partner + d, stride, out + d);
}

// An operator's `pair` with its HalfProducts, for its table of kernels.
#define RPE_HALF_PAIR pair<float, HalfProducts>
#else
#define RPE_HALF_PAIR nullptr
#endif

}  // namespace RPE_SIMD
}  // namespace rpe
