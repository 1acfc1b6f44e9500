// A block: a run of rows of one image, the unit of work that a task owns. Plain data, shared by kernels and drivers.
//
// Images are laid out one after another in padded row space: each begins at a multiple of kRowQuantum and is filled up
// with rows that take no part (zero rows of zero mass), so that no kernel has a ragged edge.
#pragma once

#include <cstdint>

namespace rpe {

// Least common multiple of every variant's micro-tile height and width.
constexpr int64_t kRowQuantum = 48;
// Row-major workspace rows are padded to this many bytes (half an AVX-512 register).
constexpr int64_t kRowBytes = 32;

struct Block {
  int64_t image;
  int64_t source;  // first row in the caller's packed rows
  int64_t valid;   // rows that exist there
  int64_t row;     // first row in padded row space
  int64_t rows;    // rows in padded row space, a multiple of kRowQuantum
};

// An ordered pair of blocks: the tile of cosines between their rows.
struct BlockPair {
  int64_t row_block;
  int64_t column_block;
};

}  // namespace rpe
