// Block lists and round-robin schedules (see plan.h).
#include "plan.h"

#include <algorithm>

namespace rpe {

int64_t choose_block_rows(int64_t num_rows) {
  constexpr int64_t kTasks = 16;
  const int64_t rows = (num_rows / kTasks + kRowQuantum - 1) / kRowQuantum * kRowQuantum;
  return std::min(std::max(rows, kRowQuantum), kMaxBlockRows);
}

BlockPlan make_plan(const int64_t* offsets, int64_t num_images, int64_t block_rows) {
  BlockPlan plan;
  plan.first_block.push_back(0);
  plan.first_row.push_back(0);
  for (int64_t image = 0; image < num_images; ++image) {
    const int64_t begin = offsets[image];
    const int64_t count = std::max<int64_t>(offsets[image + 1] - begin, 0);
    int64_t row = plan.first_row.back();
    for (int64_t done = 0; done < count; done += block_rows) {
      const int64_t valid = std::min(block_rows, count - done);
      const int64_t rows = (valid + kRowQuantum - 1) / kRowQuantum * kRowQuantum;
      plan.blocks.push_back({image, begin + done, valid, row, rows});
      row += rows;
    }
    plan.first_block.push_back(int64_t(plan.blocks.size()));
    plan.first_row.push_back(row);
  }
  return plan;
}

int64_t symmetric_rounds(const BlockPlan& plan) {
  int64_t rounds = 0;
  for (int64_t image = 0; image < plan.num_images(); ++image) {
    const int64_t count = plan.first_block[image + 1] - plan.first_block[image];
    if (count > 0) rounds = std::max(rounds, count + count % 2);
  }
  return rounds;
}

void symmetric_round(const BlockPlan& plan, int64_t round, std::vector<BlockPair>& pairs) {
  pairs.clear();
  for (int64_t image = 0; image < plan.num_images(); ++image) {
    const int64_t first = plan.first_block[image];
    const int64_t count = plan.first_block[image + 1] - first;
    const int64_t players = count + count % 2;
    if (round >= players) continue;
    if (round == 0) {
      for (int64_t block = 0; block < count; ++block) pairs.push_back({first + block, first + block});
      continue;
    }
    const int64_t circle = players - 1;
    const int64_t pivot = round - 1;
    for (int64_t k = 0; k < players / 2; ++k) {
      const int64_t one = (pivot + k) % circle;
      const int64_t other = k == 0 ? circle : (pivot - k + circle) % circle;
      if (one < count && other < count) pairs.push_back({first + std::min(one, other), first + std::max(one, other)});
    }
  }
}

int64_t rectangular_rounds(const BlockPlan& rows, const BlockPlan& columns) {
  int64_t rounds = 0;
  for (int64_t image = 0; image < rows.num_images(); ++image) {
    const int64_t num_rows = rows.first_block[image + 1] - rows.first_block[image];
    const int64_t num_columns = columns.first_block[image + 1] - columns.first_block[image];
    if (num_rows > 0 && num_columns > 0) rounds = std::max(rounds, std::max(num_rows, num_columns));
  }
  return rounds;
}

void rectangular_round(const BlockPlan& rows, const BlockPlan& columns, int64_t round, std::vector<BlockPair>& pairs) {
  pairs.clear();
  for (int64_t image = 0; image < rows.num_images(); ++image) {
    const int64_t first_row = rows.first_block[image], first_column = columns.first_block[image];
    const int64_t num_rows = rows.first_block[image + 1] - first_row;
    const int64_t num_columns = columns.first_block[image + 1] - first_column;
    const int64_t few = std::min(num_rows, num_columns), many = std::max(num_rows, num_columns);
    if (round >= many) continue;
    for (int64_t k = 0; k < few; ++k) {
      const int64_t partner = (k + round) % many;
      if (num_rows <= num_columns) {
        pairs.push_back({first_row + k, first_column + partner});
      } else {
        pairs.push_back({first_row + partner, first_column + k});
      }
    }
  }
}

}  // namespace rpe
