// Where tasks run and where memory comes from. csrc/torch supplies PyTorch's threads and allocator, the C++ tests their own.
#pragma once

#include "plan.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <thread>
#include <vector>

namespace rpe {

class TaskPool {
 public:
  virtual ~TaskPool() = default;
  // Calls task(i) once for every 0 <= i < count, and returns when all are done. Threads take indices in increasing
  // order and begin each at once: a task may wait for one of smaller index. Tasks do not throw.
  virtual void run(int64_t count, const std::function<void(int64_t)>& task) = 0;
  virtual int64_t num_threads() const = 0;
  // Index of the calling thread inside a task, below num_threads().
  virtual int64_t thread_index() const = 0;
  // Uninitialised memory, aligned for any vector, released with the handle.
  virtual std::shared_ptr<void> allocate(size_t bytes) = 0;
};

// One scratch area per thread of the pool.
class ScratchPool {
 public:
  ScratchPool(TaskPool& pool, int64_t bytes)
      : pool_(pool), bytes_((bytes + 63) / 64 * 64), memory_(pool.allocate(size_t(bytes_ * pool.num_threads()))) {}
  void* mine() const { return static_cast<char*>(memory_.get()) + bytes_ * pool_.thread_index(); }

 private:
  TaskPool& pool_;
  int64_t bytes_;
  std::shared_ptr<void> memory_;
};

// Pairs of blocks in the order of their rounds. A pair waits until all earlier pairs of both of its blocks are done, and
// for nothing else: there is no barrier between rounds, and each block still sees its pairs in order.
class OrderedPairs {
 public:
  // `shared`: rows and columns are the same blocks.
  OrderedPairs(TaskPool& pool, int64_t row_blocks, int64_t column_blocks, bool shared)
      : pool_(pool), shared_(shared), row_done_(size_t(row_blocks)), column_done_(size_t(column_blocks)) {}

  template <class Task>
  void run(const std::vector<BlockPair>& pairs, const Task& task) {
    std::vector<Turn> turns;
    std::vector<int64_t> rows(row_done_.size()), columns(column_done_.size());
    for (const BlockPair& pair : pairs) {
      std::vector<int64_t>& partners = shared_ ? rows : columns;
      turns.push_back({rows[size_t(pair.row_block)], partners[size_t(pair.column_block)]});
      ++rows[size_t(pair.row_block)];
      if (!shared_ || pair.row_block != pair.column_block) ++partners[size_t(pair.column_block)];
    }
    for (auto& done : row_done_) done.store(0, std::memory_order_relaxed);
    for (auto& done : column_done_) done.store(0, std::memory_order_relaxed);
    pool_.run(int64_t(pairs.size()), [&](int64_t i) {
      const BlockPair& pair = pairs[size_t(i)];
      std::atomic<int64_t>& row = row_done_[size_t(pair.row_block)];
      std::atomic<int64_t>& column = (shared_ ? row_done_ : column_done_)[size_t(pair.column_block)];
      wait_for(row, turns[size_t(i)].row);
      wait_for(column, turns[size_t(i)].column);
      task(pair);
      row.fetch_add(1, std::memory_order_release);
      if (&row != &column) column.fetch_add(1, std::memory_order_release);
    });
  }

 private:
  struct Turn {
    int64_t row, column;  // earlier pairs of the same block
  };

  // Waits are rare and short while every thread has a core; a thread that has none must not be starved by its waiters.
  static void wait_for(const std::atomic<int64_t>& done, int64_t turn) {
    constexpr int kYields = 32;
    for (int attempt = 0; done.load(std::memory_order_acquire) != turn; ++attempt) {
      if (attempt < kYields) {
        std::this_thread::yield();
      } else {
        std::this_thread::sleep_for(std::chrono::microseconds(20));
      }
    }
  }

  TaskPool& pool_;
  bool shared_;
  std::vector<std::atomic<int64_t>> row_done_, column_done_;
};

// Every wanted pair of a schedule, in its order. The pairs of many rounds are listed at once, but never all of a very
// large problem.
template <class Round, class Wanted, class Task>
void run_rounds(OrderedPairs& ordered, int64_t num_rounds, const Round& list_round, const Wanted& wanted,
                const Task& task) {
  constexpr size_t kPairsAtOnce = size_t(1) << 18;
  std::vector<BlockPair> round_pairs, pairs;
  for (int64_t round = 0; round < num_rounds; ++round) {
    list_round(round, round_pairs);
    std::copy_if(round_pairs.begin(), round_pairs.end(), std::back_inserter(pairs), wanted);
    if (pairs.empty() || (pairs.size() < kPairsAtOnce && round + 1 < num_rounds)) continue;
    ordered.run(pairs, task);
    pairs.clear();
  }
}

template <class Wanted, class Task>
void run_symmetric(TaskPool& pool, const BlockPlan& plan, const Wanted& wanted, const Task& task) {
  OrderedPairs ordered(pool, plan.num_blocks(), 0, true);
  const auto list = [&](int64_t round, std::vector<BlockPair>& pairs) { symmetric_round(plan, round, pairs); };
  run_rounds(ordered, symmetric_rounds(plan), list, wanted, task);
}

template <class Wanted, class Task>
void run_rectangular(TaskPool& pool, const BlockPlan& rows, const BlockPlan& columns, const Wanted& wanted,
                     const Task& task) {
  OrderedPairs ordered(pool, rows.num_blocks(), columns.num_blocks(), false);
  const auto list = [&](int64_t round, std::vector<BlockPair>& pairs) {
    rectangular_round(rows, columns, round, pairs);
  };
  run_rounds(ordered, rectangular_rounds(rows, columns), list, wanted, task);
}

}  // namespace rpe
