// Fibers as threads: their order of running, and where they meet.
#include "scheduler.h"

#include "errors.h"
#include "fibers.h"
#include "random.h"
#include "shared_memory.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

namespace simt {

namespace {

using rpe::cuda::Grid;

constexpr int kMaxWarps = kMaxThreads / kLanes;

enum class State { kRunnable, kAtBarrier, kAtCollective, kExited };

struct Fiber {
  Context context;
  char* stack = nullptr;
  bool started = false;
  int slot = 0;    // order of running: slot / 32 is the same for the lanes of a warp
  int thread = 0;  // the thread index of this block
  State state = State::kExited;
  const char* name = nullptr;  // of the collective where it waits
  Where where = {nullptr, 0};
};

struct Warp {
  uint32_t runnable = 0;  // by slot % 32
  int last = 0;           // slot % 32 of the fiber that ran last
  uint32_t arrived = 0;   // by lane, as are the operands
  void* operands[kLanes];
  Compute compute = nullptr;
  const Fiber* first = nullptr;  // that arrived
};

struct Machine {
  uint64_t seed = 0;
  Random random{0};

  void (*call)(const void*) = nullptr;
  const void* argument = nullptr;
  int threads = 0;
  size_t shared_bytes = 0;

  Context main;
  std::vector<std::unique_ptr<Fiber>> fibers;
  Fiber* self = nullptr;
  Warp warps[kMaxWarps];
  uint32_t ready = 0;  // warps with runnable fibers
  int exited = 0;
  int at_barrier = 0;
  const Fiber* first_at_barrier = nullptr;
};

Machine machine;

void switch_to(Fiber& next) {
  Fiber& self = *machine.self;
  if (&next == &self) return;
  machine.self = &next;
  current.thread = next.thread;
  switch_context(self.context, next.context);
}

std::string thread_text(int count, int first) {
  if (count == 1) return "thread " + std::to_string(first);
  return std::to_string(count) + " threads (first: " + std::to_string(first) + ")";
}

// Nobody can run and somebody waits: says who is where.
[[noreturn]] void fail_deadlock() {
  struct Group {
    const Fiber* fiber;
    int count, first;
  };
  std::vector<Group> groups;
  bool barrier = false;
  for (int slot = 0; slot < machine.threads; ++slot) {
    const Fiber& fiber = *machine.fibers[size_t(slot)];
    barrier = barrier || fiber.state == State::kAtBarrier;
    const auto alike = [&](const Group& group) {
      if (group.fiber->state != fiber.state) return false;
      return fiber.state == State::kExited ||
             (std::strcmp(group.fiber->name, fiber.name) == 0 && same(group.fiber->where, fiber.where));
    };
    const auto found = std::find_if(groups.begin(), groups.end(), alike);
    if (found == groups.end()) {
      groups.push_back({&fiber, 1, fiber.thread});
    } else {
      ++found->count;
      found->first = std::min(found->first, fiber.thread);
    }
  }
  std::string message = barrier ? "divergent barrier, deadlock:" : "divergent warp, deadlock:";
  for (const Group& group : groups) {
    if (&group != &groups.front()) message += ";";
    message += " " + thread_text(group.count, group.first);
    message += group.fiber->state == State::kExited
                   ? " exited"
                   : std::string(" at ") + group.fiber->name + " (" + text_of(group.fiber->where) + ")";
  }
  fail(message, {nullptr, 0});
}

// Runs others until this fiber is runnable again, or for good when it has exited.
void run_others() {
  if (machine.ready == 0) {
    if (machine.exited < machine.threads) fail_deadlock();
    switch_context(machine.self->context, machine.main);
    return;
  }
  int warp = machine.self->slot / kLanes;
  if (machine.seed != 0) {
    uint32_t set = machine.ready;
    for (uint32_t skipped = machine.random.below(uint32_t(__builtin_popcount(set))); skipped > 0; --skipped)
      set &= set - 1;
    warp = __builtin_ctz(set);
  } else if ((machine.ready >> warp & 1u) == 0) {
    const uint32_t later = machine.ready & ~((2u << warp) - 1);
    warp = __builtin_ctz(later != 0 ? later : machine.ready);
  }
  Warp& chosen = machine.warps[warp];
  const uint32_t later = chosen.runnable & ~((2u << chosen.last) - 1);
  chosen.last = __builtin_ctz(later != 0 ? later : chosen.runnable);
  switch_to(*machine.fibers[size_t(warp * kLanes + chosen.last)]);
}

void stop_self(State state) {
  Fiber& self = *machine.self;
  Warp& warp = machine.warps[self.slot / kLanes];
  self.state = state;
  warp.runnable &= ~(1u << self.slot % kLanes);
  if (warp.runnable == 0) machine.ready &= ~(1u << self.slot / kLanes);
}

void release_warp(int index) {
  machine.warps[index].runnable = ~0u;
  machine.ready |= 1u << index;
  for (int lane = 0; lane < kLanes; ++lane) machine.fibers[size_t(index * kLanes + lane)]->state = State::kRunnable;
}

// A fiber serves one thread of every thread block.
void run_fiber() {
  finish_switch(machine.self->context);
  for (;;) {
    try {
      machine.call(machine.argument);
      ++machine.exited;
      stop_self(State::kExited);
      run_others();
      continue;
    } catch (const GivenUp&) {
    }
    switch_context(machine.self->context, machine.main);
  }
}

void start_fiber(Fiber& fiber) {
  if (fiber.stack == nullptr) fiber.stack = allocate_stack();
  start_context(fiber.context, fiber.stack, fiber.slot, run_fiber);
  fiber.started = true;
}

void start_block(Grid block) {
  current.block = block;
  start_shared_memory(machine.shared_bytes, machine.threads);
  machine.exited = machine.at_barrier = 0;
  const int warps = machine.threads / kLanes;
  machine.ready = warps == kMaxWarps ? ~0u : (1u << warps) - 1;

  int order[kMaxWarps], lanes[kLanes];
  for (int warp = 0; warp < warps; ++warp) order[warp] = warp;
  if (machine.seed != 0) machine.random.permute(order, size_t(warps));
  for (int warp = 0; warp < warps; ++warp) {
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = lane;
    if (machine.seed != 0) machine.random.permute(lanes, kLanes);
    machine.warps[warp].last = kLanes - 1;
    machine.warps[warp].arrived = 0;
    release_warp(warp);
    for (int lane = 0; lane < kLanes; ++lane) {
      machine.fibers[size_t(warp * kLanes + lane)]->thread = order[warp] * kLanes + lanes[lane];
    }
  }
}

void run_block(Grid block) {
  start_block(block);
  machine.warps[0].last = 0;
  machine.self = machine.fibers[0].get();
  current.thread = machine.self->thread;
  switch_context(machine.main, machine.self->context);
  finish_shared_memory();
}

}  // namespace

void shuffle_threads(uint64_t seed) {
  machine.seed = seed;
  machine.random = Random(seed);
}

void meet_warp(const char* name, Compute compute, void* operand, Where where) {
  Fiber& self = *machine.self;
  const int index = self.slot / kLanes;
  Warp& warp = machine.warps[index];
  self.name = name;
  self.where = where;
  if (warp.arrived == 0) {
    warp.compute = compute;
    warp.first = &self;
  } else if (warp.compute != compute || !same(warp.first->where, where)) {
    fail(std::string("divergent warp: ") + name + " while thread " + std::to_string(warp.first->thread) + " is at " +
             warp.first->name + " (" + text_of(warp.first->where) + ")",
         where);
  }
  const int lane = self.thread % kLanes;
  warp.operands[lane] = operand;
  warp.arrived |= 1u << lane;
  if (warp.arrived == ~0u) {
    compute(warp.operands);
    warp.arrived = 0;
    release_warp(index);
  } else {
    stop_self(State::kAtCollective);
    run_others();
  }
}

void meet_block(Where where) {
  Fiber& self = *machine.self;
  self.name = "barrier";
  self.where = where;
  if (machine.at_barrier == 0) {
    machine.first_at_barrier = &self;
  } else if (!same(machine.first_at_barrier->where, where)) {
    fail("divergent barrier: thread " + std::to_string(machine.first_at_barrier->thread) + " is at another one (" +
             text_of(machine.first_at_barrier->where) + ")",
         where);
  }
  if (++machine.at_barrier == machine.threads) {
    machine.at_barrier = 0;
    order_accesses();
    for (int warp = 0; warp < machine.threads / kLanes; ++warp) release_warp(warp);
  } else {
    stop_self(State::kAtBarrier);
    run_others();
  }
}

void run_blocks(void (*call)(const void*), const void* argument, Grid grid, int threads, size_t shared_bytes) {
  machine.call = call;
  machine.argument = argument;
  machine.threads = threads;
  machine.shared_bytes = shared_bytes;
  current.grid = grid;
  while (int(machine.fibers.size()) < threads) {
    machine.fibers.push_back(std::make_unique<Fiber>());
    machine.fibers.back()->slot = int(machine.fibers.size()) - 1;
  }
  for (int slot = 0; slot < threads; ++slot) {
    if (!machine.fibers[size_t(slot)]->started) start_fiber(*machine.fibers[size_t(slot)]);
  }

  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  std::vector<uint64_t> order;
  if (machine.seed != 0) {
    for (uint64_t i = 0; i < blocks; ++i) order.push_back(i);
    machine.random.permute(order, order.size());
  }
  for (uint64_t i = 0; i < blocks && !launch_failed(); ++i) {
    const uint64_t block = order.empty() ? i : order[i];
    run_block({unsigned(block % grid.x), unsigned(block / grid.x % grid.y), unsigned(block / grid.x / grid.y)});
  }
  if (!launch_failed()) return;
  // Threads that were left in the middle of the kernel start afresh next time.
  for (const std::unique_ptr<Fiber>& fiber : machine.fibers) fiber->started = false;
}

}  // namespace simt
