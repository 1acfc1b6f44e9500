// The schedules: every pair once, no block twice in a round on a side that is written, and waits that keep the order.
#include "launch/plan.h"
#include "testing.h"

#include <map>
#include <set>
#include <utility>

namespace {

using Pair = std::pair<int64_t, int64_t>;

void check_blocks() {
  const std::vector<int64_t> offsets = testing::offsets_of({0, 1, 48, 0, 241, 480});
  const rpe::BlockPlan plan = rpe::make_plan(offsets.data(), 6, 240);
  CHECK(plan.num_images() == 6);
  int64_t rows = 0;
  for (int64_t image = 0; image < 6; ++image) {
    CHECK(plan.first_row[size_t(image)] == rows);
    int64_t valid = 0;
    for (int64_t b = plan.first_block[size_t(image)]; b < plan.first_block[size_t(image) + 1]; ++b) {
      const rpe::Block& block = plan.blocks[size_t(b)];
      CHECK(block.image == image);
      CHECK(block.source == offsets[size_t(image)] + valid);
      CHECK(block.row == rows);
      CHECK(block.rows % rpe::kRowQuantum == 0 && block.rows >= block.valid && block.rows <= rpe::kMaxBlockRows);
      valid += block.valid;
      rows += block.rows;
    }
    CHECK(valid == offsets[size_t(image) + 1] - offsets[size_t(image)]);
  }
  for (int64_t count : {0, 1, 100, 5000, 100000}) {
    const int64_t block_rows = rpe::choose_block_rows(count);
    CHECK(block_rows % rpe::kRowQuantum == 0 && block_rows > 0 && block_rows <= rpe::kMaxBlockRows);
  }
}

void check_symmetric() {
  std::vector<int64_t> sizes;
  for (int64_t blocks = 0; blocks < 9; ++blocks) sizes.push_back(blocks * 48);
  const std::vector<int64_t> offsets = testing::offsets_of(sizes);
  const rpe::BlockPlan plan = rpe::make_plan(offsets.data(), int64_t(sizes.size()), 48);
  std::map<Pair, int> seen;
  std::vector<rpe::BlockPair> pairs;
  for (int64_t round = 0; round < rpe::symmetric_rounds(plan); ++round) {
    rpe::symmetric_round(plan, round, pairs);
    std::set<int64_t> busy;
    for (const rpe::BlockPair& pair : pairs) {
      CHECK(pair.row_block <= pair.column_block);
      CHECK(busy.insert(pair.row_block).second);
      if (pair.row_block != pair.column_block) CHECK(busy.insert(pair.column_block).second);
      ++seen[{pair.row_block, pair.column_block}];
    }
  }
  size_t expected = 0;
  for (int64_t blocks = 0; blocks < 9; ++blocks) expected += size_t(blocks * (blocks + 1) / 2);
  CHECK(seen.size() == expected);
  for (const auto& entry : seen) {
    CHECK(entry.second == 1);
    CHECK(plan.blocks[size_t(entry.first.first)].image == plan.blocks[size_t(entry.first.second)].image);
  }
}

void check_rectangular() {
  const std::vector<int64_t> row_offsets = testing::offsets_of({0, 48, 96, 480, 48 * 5});
  const std::vector<int64_t> column_offsets = testing::offsets_of({48, 0, 480, 48, 48 * 5});
  const rpe::BlockPlan rows = rpe::make_plan(row_offsets.data(), 5, 48),
                       columns = rpe::make_plan(column_offsets.data(), 5, 48);
  std::map<Pair, int> seen;
  std::vector<rpe::BlockPair> pairs;
  for (int64_t round = 0; round < rpe::rectangular_rounds(rows, columns); ++round) {
    rpe::rectangular_round(rows, columns, round, pairs);
    std::set<int64_t> busy_rows, busy_columns;
    for (const rpe::BlockPair& pair : pairs) {
      CHECK(busy_rows.insert(pair.row_block).second);
      CHECK(busy_columns.insert(pair.column_block).second);
      ++seen[{pair.row_block, pair.column_block}];
    }
  }
  CHECK(seen.size() == 2 * 10 + 10 * 1 + 5 * 5);
  for (const auto& entry : seen) CHECK(entry.second == 1);
}

// Tasks that must not overlap record their order; it has to be the same for every number of threads.
std::vector<std::vector<int64_t>> order_of(int64_t threads) {
  const std::vector<int64_t> offsets = testing::offsets_of({48 * 7, 48 * 2, 48 * 12});
  const rpe::BlockPlan plan = rpe::make_plan(offsets.data(), 3, 48);
  std::vector<std::vector<int64_t>> order(plan.blocks.size());
  testing::ThreadPool pool(threads, true);
  rpe::run_symmetric(
      pool, plan, [](const rpe::BlockPair&) { return true; },
      [&](const rpe::BlockPair& pair) {
        order[size_t(pair.row_block)].push_back(pair.column_block);
        if (pair.row_block != pair.column_block) order[size_t(pair.column_block)].push_back(pair.row_block);
      });
  return order;
}

}  // namespace

int main() {
  check_blocks();
  check_symmetric();
  check_rectangular();
  const auto serial = order_of(1);
  for (int64_t threads : {2, 3, 8}) CHECK(order_of(threads) == serial);
  return testing::finish();
}
