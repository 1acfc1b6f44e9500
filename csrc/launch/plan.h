// The schedule: which blocks there are, and which pairs of them may be worked on at the same time.
//
// Within one round no block occurs twice on a side that is written, so every task owns all that it writes: no atomics,
// and each row's sums are added in the order of the rounds, whatever the number of threads. The schedule depends on the
// shape alone. Torch-free; drivers own the threads.
#pragma once

#include "block.h"

#include <cstdint>
#include <vector>

namespace rpe {

struct BlockPlan {
  std::vector<Block> blocks;
  std::vector<int64_t> first_block;  // [images + 1]
  std::vector<int64_t> first_row;    // [images + 1], padded row space
  int64_t num_images() const { return int64_t(first_block.size()) - 1; }
  int64_t padded_rows() const { return first_row.back(); }
  int64_t num_blocks() const { return first_block.back(); }
};

// Rows of a block: kMaxBlockRows for large problems, fewer for small ones, so that there are tasks to share out.
// Depends on the number of rows alone.
constexpr int64_t kMaxBlockRows = 240;
int64_t choose_block_rows(int64_t num_rows);

// Blocks of `block_rows` rows (a multiple of kRowQuantum); the last of an image may be shorter.
BlockPlan make_plan(const int64_t* offsets, int64_t num_images, int64_t block_rows);

// Symmetric schedule of every image: each unordered pair of blocks once, a block with itself included. A round-robin
// tournament (circle method): round 0 holds the diagonal, later rounds pair all blocks disjointly.
int64_t symmetric_rounds(const BlockPlan& plan);
void symmetric_round(const BlockPlan& plan, int64_t round, std::vector<BlockPair>& pairs);

// Rectangular schedule: every row block with every column block of its image, as a Latin square.
int64_t rectangular_rounds(const BlockPlan& rows, const BlockPlan& columns);
void rectangular_round(const BlockPlan& rows, const BlockPlan& columns, int64_t round, std::vector<BlockPair>& pairs);

}  // namespace rpe
