// All tile sizes of the CUDA kernels. No other file holds such a number.
//
// A thread block owns kBlockM rows (kRowTiles times 16 for each warp) and walks over tiles of kBlockN partner rows, of
// which kStages are on their way through shared memory. Rows are padded to kDim features; where the sums of one row would
// not fit the registers, kSlices thread blocks share them, kSlice features each, and repeat the products.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rpe {
namespace cuda {

// Walks over pairs of rows, each with a line of its own in the table below.
enum class Walk { kForward, kBackward, kRowSide, kColumnSide, kHinge, kComponents };

constexpr int kLargestDim = 256;
constexpr int kWarpSize = 32;
// Threads that share the work per row, which needs no tiles.
constexpr int kRowThreads = 256;
// Sums of one number per row: the fewest rows worth a thread block of their own, and the most thread blocks of an image.
constexpr int64_t kRowsOfPart = 4 * kRowThreads;
constexpr int kSumParts = 128;
// What compute capability 8.6, 8.9 and 12.0 give one thread block.
constexpr size_t kLargestShared = 99 * 1024;
// Thread blocks that a multiprocessor should be offered, and the fewest column tiles worth a thread block of their own.
constexpr int kBlocksPerProcessor = 4;
constexpr int kTilesPerSplit = 8;
// Rows of a chunk of a TileList: CHUNK of rpe_ops/backends/tile_bounds.py.
constexpr int kListChunk = 64;
// Columns after which sums are added to memory and begin anew: tensor cores cut off what does not fit a sum, a small share
// of it each time, and equal terms err alike. For float16-grade and for float32-grade sums.
constexpr int kHalfSumColumns = 4096;
constexpr int kSplitSumColumns = 512;
// Of eight exponentials of the forward's float16-grade pairs, those computed by polynomial on the FMA pipe: the special
// function unit does 16 a cycle and is what rows of up to 32 features wait for. The backward has too many other instructions
// to gain by it.
constexpr int kPolynomialEighths = 2;
constexpr int kWidestPolynomial = 32;

// The width of padded rows: every dim up to kLargestDim has one.
constexpr int padded_width(int64_t dim) {
  int width = 8;
  while (width < dim) width *= 2;
  return width;
}

struct Shape {
  int warps;
  int row_tiles;  // of 16 rows, for each warp
  int columns;
  int stages;
  bool resident;  // the warp's own rows stay in registers, instead of being read from shared memory for every tile
};

constexpr Shape full_shape_of(Walk walk, int dim, bool split) {
  switch (walk) {
    case Walk::kForward:
    case Walk::kComponents:
      if (!split) {
        if (dim <= 32) return {4, 2, 64, 3, true};
        if (dim <= 64) return {4, 2, 64, 2, true};
        if (dim <= 128) return {4, 1, 64, 2, true};
        return {4, 1, 32, 2, false};
      }
      if (dim <= 32) return {4, 2, 64, 2, true};
      if (dim <= 64) return {4, 1, 64, 2, true};
      if (dim <= 128) return {4, 1, 32, 2, false};
      return {4, 1, 16, 2, false};
    case Walk::kHinge:
      if (!split) {
        if (dim <= 64) return {4, 2, 64, 2, true};
        if (dim <= 128) return {4, 1, 32, 2, true};
        return {4, 1, 16, 2, false};
      }
      if (dim <= 32) return {4, 2, 64, 2, true};
      if (dim <= 64) return {4, 1, 32, 2, true};
      if (dim <= 128) return {4, 1, 32, 2, false};
      return {2, 1, 16, 2, false};
    case Walk::kBackward:
    case Walk::kRowSide:
    case Walk::kColumnSide:
      if (!split) {
        if (dim <= 16) return {4, 2, 64, 2, true};
        if (dim <= 64) return {4, 1, 64, 2, true};
        if (dim <= 128) return {4, 1, 32, 2, false};
        return {4, 1, 16, 2, false};
      }
      if (dim <= 32) return {4, 1, 64, 2, true};
      if (dim <= 64) return {4, 1, 32, 2, false};
      if (dim <= 128) return {4, 1, 16, 2, false};
      return {1, 1, 16, 2, false};
  }
  return {};
}

// Walks by lists have tiles that divide a chunk.
constexpr Shape shape_of(Walk walk, int dim, bool split, bool listed) {
  Shape shape = full_shape_of(walk, dim, split);
  if (listed) shape.row_tiles = 1;
  return shape;
}

// Operands of the own rows and of the partner rows, and numbers that come with each partner row.
struct Parts {
  int rows;
  int columns;
  int numbers;
};

constexpr Parts parts_of(Walk walk) {
  switch (walk) {
    case Walk::kForward:
      return {1, 1, 2};  // x | y | excess of length, log mass
    case Walk::kBackward:
      return {2, 2, 2};  // x, u | x, u | v, excess of length
    case Walk::kRowSide:
      return {2, 1, 2};  // x, h | y | excess of length, log mass
    case Walk::kColumnSide:
      return {1, 2, 3};  // y | x, h | e, nearest, level
    case Walk::kHinge:
      return {1, 2, 2};  // x | x, w x | w, instance
    case Walk::kComponents:
      return {1, 1, 1};  // x | x | root
  }
  return {};
}

// Sums of more features than this do not fit the registers.
constexpr int widest_slice(Walk walk, int dim, bool split) {
  const bool two_sums = walk == Walk::kBackward || walk == Walk::kColumnSide;
  return two_sums && (split || dim > 128) ? 64 : 128;
}

// Thread blocks of 128 threads that the compiler is asked to leave registers for, where that costs no spills.
constexpr int blocks_wanted(Walk walk, int dim, bool split) {
  if (split || dim > 16) return 1;
  if (walk == Walk::kForward || walk == Walk::kHinge) return 4;
  return walk == Walk::kBackward || walk == Walk::kColumnSide ? 3 : 1;
}

template <Walk kWalk_, int kDim_, bool kSplit_, bool kListed_ = false>
struct Traits {
  static constexpr Walk kWalk = kWalk_;
  static constexpr int kDim = kDim_;
  static constexpr bool kSplit = kSplit_;    // rows come in two float16 parts
  static constexpr bool kListed = kListed_;  // columns come from a TileList
  static constexpr Shape kShape = shape_of(kWalk, kDim, kSplit, kListed);
  static constexpr Parts kParts = parts_of(kWalk);
  static constexpr int kThreads = kShape.warps * kWarpSize;
  static constexpr int kBlocksWanted = blocks_wanted(kWalk, kDim, kSplit);
  static constexpr int kRowTiles = kShape.row_tiles;
  static constexpr int kBlockM = kShape.warps * kRowTiles * 16;
  static constexpr int kBlockN = kShape.columns;
  static constexpr int kStages = kShape.stages;
  static constexpr bool kResident = kShape.resident;
  static constexpr int kSlice = kDim < widest_slice(kWalk, kDim, kSplit) ? kDim : widest_slice(kWalk, kDim, kSplit);
  static constexpr int kSlices = kDim / kSlice;
  static constexpr int kSumTiles = (kSplit ? kSplitSumColumns : kHalfSumColumns) / kBlockN;
  // Chunks of sixteen partners that are unrolled; wide rows leave no registers for more than one.
  static constexpr int kUnroll = kDim <= 64 ? 2 : 1;
  static constexpr int kPolynomials =
      kWalk == Walk::kForward && !kSplit && kDim <= kWidestPolynomial ? kPolynomialEighths : 0;
  // Shared memory, in bytes: the own rows, then the stages, each of operands and numbers.
  static constexpr int kCopies = kSplit ? 2 : 1;
  static constexpr int kRowBytes = kBlockM * kDim * 2;
  static constexpr int kColumnBytes = kBlockN * kDim * 2;
  static constexpr int kNumberBytes = kBlockN * 4;
  static constexpr int kStageBytes = kParts.columns * kCopies * kColumnBytes + kParts.numbers * kNumberBytes;
  static constexpr int kSharedBytes = kParts.rows * kCopies * kRowBytes + kStages * kStageBytes;

  static_assert(kDim % 8 == 0 && kDim <= kLargestDim && (kDim & (kDim - 1)) == 0, "rows are padded to a power of two");
  static_assert(kBlockN % 16 == 0 && kStages >= 2, "partners come sixteen at a time, behind those in use");
  static_assert(!kListed || (kListChunk % kBlockM == 0 && kListChunk % kBlockN == 0), "tiles lie in one chunk");
  static_assert(kSharedBytes <= int(kLargestShared), "a tile must fit the smallest GPU");
};

}  // namespace cuda
}  // namespace rpe
