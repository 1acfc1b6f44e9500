// Tiles of rows in shared memory, their fragments in registers, and products between them: what every walk over pairs
// (walk.cuh) is made of. It knows no operator's formula.
//
// Fragments are those of mma.m16n8k16 (device.cuh): lane l holds rows l / 4 and l / 4 + 8 of each 16, and of each 8
// columns 2 (l % 4) and the next. A chunk is 16 rows times 16 columns: `Chunk[n][e]`, column 8 n + 2 (l % 4) + e % 2, row
// l / 4 + 8 (e / 2).
#pragma once

#include "device.cuh"
#include "traits.cuh"

namespace rpe {
namespace cuda {

RPE_DEVICE int lane_index() {
  return thread_index() % kWarpSize;
}
RPE_DEVICE int warp_index() {
  return thread_index() / kWarpSize;
}

// Place of 8 features, a 16-byte piece of a row, in a tile. Pieces are permuted so that neither reading 8 rows at one
// piece nor writing whole rows meets a bank twice.
template <int kDim>
RPE_DEVICE int tile_place(int row, int piece) {
  constexpr int kPieces = kDim / 8;
  constexpr int kPeriod = kPieces >= 8 ? 1 : 8 / kPieces;
  constexpr int kMask = (kPieces < 8 ? kPieces : 8) - 1;
  return row * kDim + (piece ^ ((row / kPeriod) & kMask)) * 8;
}

// Starts the copy of rows first .. first + kRows - 1 of a packed [rows, kDim] array to a tile; zeros from `end` on.
template <int kDim, int kRows, int kThreads>
RPE_DEVICE void copy_rows(Half* tile, const Half* rows, int first, int end) {
  constexpr int kPieces = kDim / 8;
#pragma unroll(kDim <= 64 ? 4 : 1)
  for (int k = thread_index(); k < kRows * kPieces; k += kThreads) {
    const int row = k / kPieces, piece = k % kPieces;
    const bool inside = first + row < end;
    copy_async_16(tile + tile_place<kDim>(row, piece), rows + int64_t(inside ? first + row : 0) * kDim + piece * 8,
                  inside);
  }
}
// The same for one 4-byte number of each row.
template <int kRows, int kThreads, class T>
RPE_DEVICE void copy_numbers(T* tile, const T* numbers, int first, int end) {
  static_assert(sizeof(T) == 4, "copies are of 4 bytes");
  for (int k = thread_index(); k < kRows; k += kThreads) {
    const bool inside = first + k < end;
    copy_async_4(tile + k, numbers + (inside ? first + k : 0), inside);
  }
}

// A tile's operands in shared memory: the float16 copy of the rows and, for float32-grade products, what that leaves.
struct TileOperand {
  const Half* high;
  const Half* low;
};

// 16 rows of a warp as the first factor of a product: in registers, or read again each time.
template <int kDim, bool kResident>
struct RowFragments {
  static constexpr int kSteps = (kDim + 15) / 16;
  uint32_t held[kResident ? kSteps : 1][4];
  const Half* tile;
  int first_row;

  RPE_DEVICE_MEMBER void read(int step, uint32_t (&a)[4]) const {
    const int lane = lane_index();
    if constexpr (kDim == 8) {
      uint32_t pair[2];
      ldmatrix_x2(pair, tile + tile_place<kDim>(first_row + lane % 16, 0));
      a[0] = pair[0];
      a[1] = pair[1];
      a[2] = a[3] = 0;
    } else {
      ldmatrix_x4(a, tile + tile_place<kDim>(first_row + lane % 16, 2 * step + lane / 16));
    }
  }
  RPE_DEVICE_MEMBER void load(const Half* rows, int first) {
    tile = rows;
    first_row = first;
    if constexpr (kResident) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) read(step, held[step]);
    }
  }
  RPE_DEVICE_MEMBER void get(int step, uint32_t (&a)[4]) const {
    if constexpr (kResident) {
#pragma unroll
      for (int k = 0; k < 4; ++k) a[k] = held[step][k];
    } else {
      read(step, a);
    }
  }
};

// The own rows of a warp, all its row tiles, in one or two parts.
template <class T>
struct RowOperand {
  RowFragments<T::kDim, T::kResident> high[T::kRowTiles], low[T::kSplit ? T::kRowTiles : 1];

  RPE_DEVICE_MEMBER void load(TileOperand tile) {
    const int first = warp_index() * T::kRowTiles * 16;
#pragma unroll
    for (int m = 0; m < T::kRowTiles; ++m) {
      high[m].load(tile.high, first + m * 16);
      if constexpr (T::kSplit) low[m].load(tile.low, first + m * 16);
    }
  }
};

using Chunk = float[2][4];

// Features 16 step .. 16 step + 15 of 16 partner rows as the second factor of a product with rows.
template <int kDim>
RPE_DEVICE void load_partners(uint32_t (&b)[4], const Half* tile, int column, int step) {
  const int lane = lane_index();
  if constexpr (kDim == 8) {
    uint32_t pair[2];
    ldmatrix_x2(pair, tile + tile_place<kDim>(column + lane % 16, 0));
    b[0] = pair[0];
    b[1] = pair[1];
    b[2] = b[3] = 0;
  } else {
    ldmatrix_x4(b, tile + tile_place<kDim>(column + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2));
  }
}

template <int kDim>
RPE_DEVICE void add_product(Chunk& sum, const uint32_t (&a)[4], const uint32_t (&b)[4]) {
  if constexpr (kDim == 8) {
    mma_m16n8k8(sum[0], a[0], a[1], b[0]);
    mma_m16n8k8(sum[1], a[0], a[1], b[1]);
  } else {
    mma_m16n8k16(sum[0], a, b[0], b[1]);
    mma_m16n8k16(sum[1], a, b[2], b[3]);
  }
}

// One product of rows_times_rows: own rows `a` and the chunks that their products are added to.
template <class T>
struct RowProduct {
  Chunk (&sum)[T::kRowTiles];
  const RowOperand<T>& a;
};

// sum[m] + a b^T, for each product, with the own rows a and partner rows column .. column + 15 of a tile b.
// Two-part rows: the small terms are summed apart. kSwapped adds them in the order of b a^T, for the same bits from
// either side.
template <class T, bool kSwapped, int kProducts>
RPE_DEVICE void rows_times_rows(const RowProduct<T> (&products)[kProducts], TileOperand b, int column) {
  Chunk rest[kProducts][T::kRowTiles] = {};
#pragma unroll(T::kResident ? (T::kDim + 15) / 16 : 1)
  for (int step = 0; step < (T::kDim + 15) / 16; ++step) {
    uint32_t b_high[4], b_low[4], a_high[4], a_low[4];
    load_partners<T::kDim>(b_high, b.high, column, step);
    if constexpr (T::kSplit) load_partners<T::kDim>(b_low, b.low, column, step);
#pragma unroll
    for (int which = 0; which < kProducts; ++which) {
      const RowOperand<T>& a = products[which].a;
#pragma unroll
      for (int m = 0; m < T::kRowTiles; ++m) {
        a.high[m].get(step, a_high);
        if constexpr (T::kSplit) {
          a.low[m].get(step, a_low);
          if constexpr (kSwapped) add_product<T::kDim>(rest[which][m], a_high, b_low);
          add_product<T::kDim>(rest[which][m], a_low, b_high);
          if constexpr (!kSwapped) add_product<T::kDim>(rest[which][m], a_high, b_low);
        }
        add_product<T::kDim>(products[which].sum[m], a_high, b_high);
      }
    }
  }
  if constexpr (T::kSplit) {
#pragma unroll
    for (int which = 0; which < kProducts; ++which)
#pragma unroll
      for (int m = 0; m < T::kRowTiles; ++m)
#pragma unroll
        for (int k = 0; k < 8; ++k) products[which].sum[m][k / 4][k % 4] += rest[which][m][k / 4][k % 4];
  }
}
template <class T, bool kSwapped = false>
RPE_DEVICE void rows_times_rows(Chunk (&sum)[T::kRowTiles], const RowOperand<T>& a, TileOperand b, int column) {
  const RowProduct<T> products[1] = {{sum, a}};
  rows_times_rows<T, kSwapped>(products, b, column);
}

// Sums of one warp's rows over the partners, kSlice features from kSlice times the slice on.
template <class T>
using RowSums = float[T::kRowTiles][T::kSlice / 8][4];

// Multiplies what a lane holds of row l / 4 + 8 half.
template <int kColumns>
RPE_DEVICE void scale_row(float (&sum)[kColumns][4], int half, float factor) {
#pragma unroll
  for (int n = 0; n < kColumns; ++n) {
    sum[n][2 * half] *= factor;
    sum[n][2 * half + 1] *= factor;
  }
}

// A chunk of weights as the first factor of a product: rounded, and what rounding left.
struct WeightFragments {
  uint32_t high[4], low[4];

  template <bool kSplit>
  RPE_DEVICE_MEMBER void load(const Chunk& weight) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float first = weight[k / 2][k % 2 * 2], second = weight[k / 2][k % 2 * 2 + 1];
      high[k] = pack_halves(first, second);
      if constexpr (kSplit) {
        const float2 rounded = unpack_halves(high[k]);
        low[k] = pack_halves(first - rounded.x, second - rounded.y);
      }
    }
  }
};

// Sums of weights, by a product with ones: every column of the product is the row's sum.
template <class T>
using WeightSums = float[T::kRowTiles][4];

template <class T>
RPE_DEVICE void add_weights(WeightSums<T>& sum, const WeightFragments (&weight)[T::kRowTiles]) {
  constexpr uint32_t kOnes = 0x3c003c00u;
#pragma unroll
  for (int m = 0; m < T::kRowTiles; ++m) {
    if constexpr (T::kSplit) mma_m16n8k16(sum[m], weight[m].low, kOnes, kOnes);
    mma_m16n8k16(sum[m], weight[m].high, kOnes, kOnes);
  }
}

// Weights of float16 numbers are exact in one part.
template <class T, bool kExact = false>
RPE_DEVICE void load_weights(WeightFragments (&fragments)[T::kRowTiles], const Chunk (&weight)[T::kRowTiles]) {
#pragma unroll
  for (int m = 0; m < T::kRowTiles; ++m) fragments[m].template load<T::kSplit && !kExact>(weight[m]);
}

// Whether any of the warp's weights, which are not negative, is not 0 as a float16 number.
template <class T>
RPE_DEVICE bool any_weight(const WeightFragments (&weight)[T::kRowTiles]) {
  uint32_t bits = 0;
#pragma unroll
  for (int k = 0; k < 4 * T::kRowTiles; ++k) bits |= weight[k / 4].high[k % 4];
  return any_in_warp(bits != 0);
}

// sum[m] + weight[m] b for partner rows column .. column + 15 of a tile b.
template <class T, bool kExact = false>
RPE_DEVICE void weights_times_rows(RowSums<T>& sum, const WeightFragments (&a)[T::kRowTiles], TileOperand b, int column,
                                   int slice) {
  constexpr bool kSplitWeights = T::kSplit && !kExact;
  const int lane = lane_index();
  if constexpr (T::kDim == 8) {
    uint32_t b_high[2], b_low[2];
    const int place = tile_place<T::kDim>(column + lane % 16, 0);
    ldmatrix_x2_transposed(b_high, b.high + place);
    if constexpr (T::kSplit) ldmatrix_x2_transposed(b_low, b.low + place);
#pragma unroll
    for (int m = 0; m < T::kRowTiles; ++m) {
      if constexpr (kSplitWeights) mma_m16n8k16(sum[m][0], a[m].low, b_high[0], b_high[1]);
      if constexpr (T::kSplit) mma_m16n8k16(sum[m][0], a[m].high, b_low[0], b_low[1]);
      mma_m16n8k16(sum[m][0], a[m].high, b_high[0], b_high[1]);
    }
  } else {
#pragma unroll
    for (int step = 0; step < T::kSlice / 16; ++step) {
      uint32_t b_high[4], b_low[4];
      const int place = tile_place<T::kDim>(column + lane % 16, slice * (T::kSlice / 8) + 2 * step + lane / 16);
      ldmatrix_x4_transposed(b_high, b.high + place);
      if constexpr (T::kSplit) ldmatrix_x4_transposed(b_low, b.low + place);
#pragma unroll
      for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          float (&total)[4] = sum[m][2 * step + n];
          if constexpr (kSplitWeights) mma_m16n8k16(total, a[m].low, b_high[2 * n], b_high[2 * n + 1]);
          if constexpr (T::kSplit) mma_m16n8k16(total, a[m].high, b_low[2 * n], b_low[2 * n + 1]);
          mma_m16n8k16(total, a[m].high, b_high[2 * n], b_high[2 * n + 1]);
        }
      }
    }
  }
}

template <class T>
RPE_DEVICE void weights_times_rows(RowSums<T>& sum, const Chunk (&weight)[T::kRowTiles], TileOperand b, int column,
                                   int slice) {
  WeightFragments fragments[T::kRowTiles];
  load_weights<T>(fragments, weight);
  weights_times_rows<T>(sum, fragments, b, column, slice);
}

// One number for each row of a warp: what lane l holds of rows l / 4 and l / 4 + 8.
template <class T>
using RowNumbers = float[T::kRowTiles][2];

template <class T>
RPE_DEVICE void set_numbers(RowNumbers<T>& number, float value) {
#pragma unroll
  for (int k = 0; k < 2 * T::kRowTiles; ++k) number[k / 2][k % 2] = value;
}

// Adds a warp's sums to `factor` times what its rows of a packed [rows, kDim] array hold, as far as `end`, or writes them
// there the first time; then they begin anew.
template <class T>
RPE_DEVICE void move_sums(float* rows, RowSums<T>& sum, bool first, const RowNumbers<T>& factor, int first_row, int end,
                          int slice) {
  const int lane = lane_index();
#pragma unroll
  for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + m * 16 + lane / 4 + 8 * half;
      if (row >= end) continue;
      float* place = rows + int64_t(row) * T::kDim + slice * T::kSlice + lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < T::kSlice / 8; ++n) {
        float2* pair = reinterpret_cast<float2*>(place + n * 8);
        float2 value = {sum[m][n][2 * half], sum[m][n][2 * half + 1]};
        if (!first) {
          const float2 before = *pair;
          value.x = fmaf(factor[m][half], before.x, value.x);
          value.y = fmaf(factor[m][half], before.y, value.y);
        }
        *pair = value;
      }
    }
#pragma unroll
    for (int k = 0; k < T::kSlice / 2; ++k) sum[m][k / 4][k % 4] = 0.0f;
  }
}
// Adds numbers of rows likewise, in registers.
template <class T>
RPE_DEVICE void move_numbers(RowNumbers<T>& total, RowNumbers<T>& part, const RowNumbers<T>& factor) {
#pragma unroll
  for (int k = 0; k < 2 * T::kRowTiles; ++k) {
    total[k / 2][k % 2] = fmaf(total[k / 2][k % 2], factor[k / 2][k % 2], part[k / 2][k % 2]);
    part[k / 2][k % 2] = 0.0f;
  }
}

// Sums over the four lanes that share a row.
RPE_DEVICE float quad_sum(float value) {
  value += shuffle_xor(value, 1);
  return value + shuffle_xor(value, 2);
}
RPE_DEVICE float quad_maximum(float value) {
  value = fmaxf(value, shuffle_xor(value, 1));
  return fmaxf(value, shuffle_xor(value, 2));
}

// One lane of each four writes its row's number.
template <class T>
RPE_DEVICE void store_numbers(float* numbers, const RowNumbers<T>& value, int first_row, int end) {
  const int lane = lane_index();
#pragma unroll
  for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + m * 16 + lane / 4 + 8 * half;
      if (lane % 4 == 0 && row < end) numbers[row] = value[m][half];
    }
  }
}
// Reads the row's number in every lane, `other` from `end` on.
template <class T, class V>
RPE_DEVICE void load_numbers(V (&value)[T::kRowTiles][2], const V* numbers, int first_row, int end, V other) {
  const int lane = lane_index();
#pragma unroll
  for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + m * 16 + lane / 4 + 8 * half;
      value[m][half] = row < end ? numbers[row] : other;
    }
  }
}

}  // namespace cuda
}  // namespace rpe
