// Fibers, their scheduler, and the bookkeeping of shared memory behind simt.h.
#include "simt.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <sys/mman.h>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ADDRESS_SANITIZER 1
#endif
#endif
#if defined(SIMT_ADDRESS_SANITIZER)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// swapcontext asks the kernel for the signal mask at every switch, which costs more than everything else here.
#if defined(__x86_64__) && defined(__ELF__) && !defined(SIMT_UCONTEXT)
#define SIMT_ASSEMBLY 1
// Saves the registers that calls preserve, on the old stack, and takes them from the new one.
asm(R"(
  .pushsection .text
  .p2align 4
  .type simt_switch_stack, @function
simt_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size simt_switch_stack, .-simt_switch_stack
  .popsection
)");
extern "C" void simt_switch_stack(void** old_stack, void* new_stack);
#else
#include <ucontext.h>
#endif

namespace simt {

Current current;

namespace {

using rpe::cuda::Grid;

constexpr int kMaxThreads = 1024;
constexpr int kMaxWarps = kMaxThreads / kLanes;
constexpr size_t kMaxSharedBytes = 227 * 1024;
// The alignment that kernels may count on; the emulated address is a multiple of no more than this.
constexpr size_t kSharedAlignment = 128;
constexpr size_t kGranuleBytes = 2;
constexpr size_t kPageBytes = 4096;
constexpr size_t kStackBytes = 256 * 1024;
// Stacks start at different offsets, or their hot ends would all fall into the same few cache sets.
constexpr size_t kStackSteps = 64, kStackStepBytes = 17 * 64;

constexpr uint16_t kNobody = 0xffff, kSeveral = 0xfffe;

struct Context {
#if defined(SIMT_ASSEMBLY)
  void* stack_pointer = nullptr;
#else
  ucontext_t registers;
#endif
  // What the address sanitizer wants to know.
  const void* stack_bottom = nullptr;
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;
};

struct Copy {
  size_t offset, bytes;
  const char* source;  // nullptr: zeros
  int64_t group;
};

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
  std::vector<Copy> copies;  // in order of issue
  int64_t groups = 0;        // committed
};

struct Warp {
  uint32_t runnable = 0;  // by slot % 32
  int last = 0;           // slot % 32 of the fiber that ran last
  uint32_t arrived = 0;   // by lane, as are the operands
  void* operands[kLanes];
  Compute compute = nullptr;
  const Fiber* first = nullptr;  // that arrived
};

// What happened to two bytes of shared memory. Epochs end at barriers and are never used twice.
struct Granule {
  uint32_t write_epoch = 0, read_epoch = 0;
  uint16_t writer = kNobody, reader = kNobody, copier = kNobody;
};

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 0x632be59bd9b4e019u) {}
  uint32_t below(uint32_t count) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return uint32_t((state_ >> 32) * count >> 32);
  }
  template <class Values>
  void permute(Values& values, size_t count) {
    for (size_t i = count; i > 1; --i) std::swap(values[i - 1], values[below(uint32_t(i))]);
  }

 private:
  uint64_t state_;
};

struct Machine {
  ErrorHandler handler;
  std::string error;
  uint64_t seed = 0;
  Random random{0};
  int64_t launches = 0;
  bool running = false;

  void (*call)(const void*) = nullptr;
  const void* argument = nullptr;
  int threads = 0;
  size_t shared_bytes = 0;

  Context main;
  Context* previous = nullptr;  // the one that was left last
  std::vector<std::unique_ptr<Fiber>> fibers;
  Fiber* self = nullptr;
  Warp warps[kMaxWarps];
  uint32_t ready = 0;  // warps with runnable fibers
  int exited = 0;
  int at_barrier = 0;
  const Fiber* first_at_barrier = nullptr;

  uint32_t epoch = 0, first_epoch = 0;  // now, and at the start of the block
  std::vector<Granule> granules = std::vector<Granule>(kMaxSharedBytes / kGranuleBytes);
  alignas(kSharedAlignment) char bytes[kMaxSharedBytes];
};

Machine machine;

std::string text_of(Where where) {
  const std::string file = where.file;
  return file.substr(file.find_last_of('/') + 1) + ":" + std::to_string(where.line);
}
bool same(Where one, Where other) {
  return one.line == other.line && (one.file == other.file || std::strcmp(one.file, other.file) == 0);
}

void finish_switch(Context& context) {
#if defined(SIMT_ADDRESS_SANITIZER)
  __sanitizer_finish_switch_fiber(context.fake_stack, &machine.previous->stack_bottom, &machine.previous->stack_bytes);
#else
  (void)context;
#endif
}

void switch_context(Context& from, Context& to) {
  machine.previous = &from;
#if defined(SIMT_ADDRESS_SANITIZER)
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack_bottom, to.stack_bytes);
#endif
#if defined(SIMT_ASSEMBLY)
  simt_switch_stack(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.registers, &to.registers);
#endif
  finish_switch(from);
}

void switch_to(Fiber& next) {
  Fiber& self = *machine.self;
  if (&next == &self) return;
  machine.self = &next;
  current.thread = next.thread;
  switch_context(self.context, next.context);
}

void report(const std::string& message) {
  if (!machine.handler) {
    std::fprintf(stderr, "%s\n", message.c_str());
    std::fflush(stderr);
    std::abort();
  }
  machine.error = message;
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

// Thrown by an error, so that its text is freed; the other fibers hold nothing, and are left as they are.
struct GivenUp {};

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
  if (fiber.stack == nullptr) {
    void* memory = mmap(nullptr, kPageBytes + kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, kPageBytes, PROT_NONE) != 0) {
      std::fprintf(stderr, "simt: no memory for the stacks of threads\n");
      std::abort();
    }
    fiber.stack = static_cast<char*>(memory) + kPageBytes;
  }
  const size_t bytes = kStackBytes - size_t(fiber.slot) % kStackSteps * kStackStepBytes;
#if defined(SIMT_ADDRESS_SANITIZER)
  __asan_unpoison_memory_region(fiber.stack, kStackBytes);
#endif
  fiber.context = Context();
  fiber.context.stack_bottom = fiber.stack;
  fiber.context.stack_bytes = bytes;
#if defined(SIMT_ASSEMBLY)
  // Six registers, the address to return to, and the return address of that function, which never returns.
  void** top = reinterpret_cast<void**>(fiber.stack + bytes);
  std::fill(top - 8, top, nullptr);
  top[-2] = reinterpret_cast<void*>(&run_fiber);
  fiber.context.stack_pointer = top - 8;
#else
  getcontext(&fiber.context.registers);
  fiber.context.registers.uc_stack.ss_sp = fiber.stack;
  fiber.context.registers.uc_stack.ss_size = bytes;
  fiber.context.registers.uc_link = nullptr;
  makecontext(&fiber.context.registers, run_fiber, 0);
#endif
  fiber.started = true;
}

void mark_copy(const Copy& copy, uint16_t copier) {
  for (size_t i = 0; i < copy.bytes / kGranuleBytes; ++i)
    machine.granules[copy.offset / kGranuleBytes + i].copier = copier;
}

void start_block(Grid block) {
  current.block = block;
  machine.first_epoch = ++machine.epoch;
  std::memset(machine.bytes, 0xff, machine.shared_bytes);
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
  for (int slot = 0; slot < machine.threads; ++slot) {
    Fiber& fiber = *machine.fibers[size_t(slot)];
    for (const Copy& copy : fiber.copies) mark_copy(copy, kNobody);
    fiber.copies.clear();
    fiber.groups = 0;
  }
}

std::string range_text(const char* name, size_t offset, size_t bytes) {
  return std::string(name) + " of shared bytes [" + std::to_string(offset) + ", " + std::to_string(offset + bytes) +
         ")";
}

size_t check_address(const char* name, const void* address, size_t bytes, size_t alignment, Where where) {
  const size_t offset = uintptr_t(address) - uintptr_t(current.shared);
  if (offset > machine.shared_bytes || bytes > machine.shared_bytes - offset) {
    const auto distance = std::to_string(int64_t(offset));
    fail(std::string(name) + " outside of the " + std::to_string(machine.shared_bytes) +
             " bytes of shared memory: " + std::to_string(bytes) + " bytes at " + distance,
         where);
  }
  if (offset % std::max(alignment, kGranuleBytes) != 0) {
    fail(range_text(name, offset, bytes) + " is misaligned: not a multiple of " + std::to_string(alignment), where);
  }
  return offset;
}

// Fails when the running thread may not write here.
void check_write(const char* name, size_t offset, size_t bytes, Where where) {
  const uint16_t self = uint16_t(current.thread);
  for (size_t i = offset / kGranuleBytes; i < (offset + bytes) / kGranuleBytes; ++i) {
    const Granule& granule = machine.granules[i];
    const bool written = granule.write_epoch == machine.epoch && granule.writer != self;
    const bool read = granule.read_epoch == machine.epoch && granule.reader != self;
    if (granule.copier == kNobody && !written && !read) continue;
    std::string message = range_text(name, offset, bytes);
    if (granule.copier != kNobody) {
      message += " to which a copy of thread " + std::to_string(granule.copier) + " is pending";
    } else if (written) {
      message += " which thread " + std::to_string(granule.writer) + " wrote since the last barrier (race)";
    } else if (granule.reader == kSeveral) {
      message += " which several threads read since the last barrier (race)";
    } else {
      message += " which thread " + std::to_string(granule.reader) + " read since the last barrier (race)";
    }
    fail(message, where);
  }
}

void mark_written(size_t offset, size_t bytes) {
  const uint16_t self = uint16_t(current.thread);
  for (size_t i = offset / kGranuleBytes; i < (offset + bytes) / kGranuleBytes; ++i) {
    machine.granules[i].write_epoch = machine.epoch;
    machine.granules[i].writer = self;
  }
}

// The sanitizers would spend most of a test's time here, on arrays whose indices depend on nothing.
#define SIMT_PLAIN __attribute__((no_sanitize("address", "undefined")))

template <int kRows, int kColumns>
SIMT_PLAIN void widen(float (&values)[kRows][kColumns], const uint32_t (&halves)[kRows][kColumns]) {
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < kColumns; ++column) {
      // The half's exponent and fraction in a float's place, too small by 2^112; exact for subnormal numbers too.
      const uint32_t half = halves[row][column], magnitude = (half & 0x7fffu) << 13;
      float value;
      __builtin_memcpy(&value, &magnitude, sizeof(value));
      value *= 0x1p112f;
      uint32_t bits;
      __builtin_memcpy(&bits, &value, sizeof(bits));
      bits |= ((half & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u) | (half & 0x8000u) << 16;
      __builtin_memcpy(&values[row][column], &bits, sizeof(bits));
    }
  }
}

template <int kDepth>
SIMT_PLAIN void compute_mma(void* const* operands) {
  uint32_t a_halves[16][kDepth], b_halves[kDepth][8];
  float a[16][kDepth], b[kDepth][8], c[16][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    const ProductOperand& operand = *static_cast<const ProductOperand*>(operands[lane]);
    const int group = lane / 4, pair = 2 * (lane % 4);
    for (int k = 0; k < kDepth / 8; ++k) {
      for (int half = 0; half < 2; ++half) {
        a_halves[group][8 * k + pair + half] = operand.a[2 * k] >> 16 * half & 0xffffu;
        a_halves[group + 8][8 * k + pair + half] = operand.a[2 * k + 1] >> 16 * half & 0xffffu;
        b_halves[8 * k + pair + half][group] = operand.b[k] >> 16 * half & 0xffffu;
      }
    }
    for (int i = 0; i < 4; ++i) c[group + 8 * (i / 2)][pair + i % 2] = operand.c[i];
  }
  widen(a, a_halves);
  widen(b, b_halves);
  for (int row = 0; row < 16; ++row) {
    float sum[8];
    for (int column = 0; column < 8; ++column) sum[column] = c[row][column];
    for (int k = 0; k < kDepth; ++k) {
      for (int column = 0; column < 8; ++column) sum[column] += a[row][k] * b[k][column];
    }
    for (int column = 0; column < 8; ++column) c[row][column] = sum[column];
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    const ProductOperand& operand = *static_cast<const ProductOperand*>(operands[lane]);
    const int group = lane / 4, pair = 2 * (lane % 4);
    for (int i = 0; i < 4; ++i) operand.c[i] = c[group + 8 * (i / 2)][pair + i % 2];
  }
}

}  // namespace

void on_error(ErrorHandler handler) {
  machine.handler = std::move(handler);
}

void shuffle_threads(uint64_t seed) {
  machine.seed = seed;
  machine.random = Random(seed);
}

void fail(const std::string& message, Where where) {
  const Grid block = current.block;
  std::string text = "simt: launch " + std::to_string(machine.launches) + ", block (" + std::to_string(block.x) + ", " +
                     std::to_string(block.y) + ", " + std::to_string(block.z) + "), thread " +
                     std::to_string(current.thread) + ": ";
  if (where.file != nullptr) text += text_of(where) + ": ";
  report(text + message);
  throw GivenUp();
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
    ++machine.epoch;
    for (int warp = 0; warp < machine.threads / kLanes; ++warp) release_warp(warp);
  } else {
    stop_self(State::kAtBarrier);
    run_others();
  }
}

const char* read_shared(const char* name, const void* address, size_t bytes, size_t alignment, Where where) {
  const size_t offset = check_address(name, address, bytes, alignment, where);
  const uint16_t self = uint16_t(current.thread);
  for (size_t i = offset / kGranuleBytes; i < (offset + bytes) / kGranuleBytes; ++i) {
    Granule& granule = machine.granules[i];
    const bool raced = granule.write_epoch == machine.epoch && granule.writer != self;
    if (granule.copier != kNobody || granule.write_epoch < machine.first_epoch || raced) {
      std::string message = range_text(name, offset, bytes);
      if (granule.copier != kNobody) {
        message += " to which a copy of thread " + std::to_string(granule.copier) + " is pending";
      } else if (raced) {
        message += " which thread " + std::to_string(granule.writer) + " wrote since the last barrier (race)";
      } else {
        message += " which nothing wrote";
      }
      fail(message, where);
    }
    if (granule.read_epoch != machine.epoch) {
      granule.read_epoch = machine.epoch;
      granule.reader = self;
    } else if (granule.reader != self) {
      granule.reader = kSeveral;
    }
  }
  return machine.bytes + offset;
}

char* write_shared(const char* name, void* address, size_t bytes, size_t alignment, Where where) {
  const size_t offset = check_address(name, address, bytes, alignment, where);
  check_write(name, offset, bytes, where);
  mark_written(offset, bytes);
  return machine.bytes + offset;
}

void start_copy(const char* name, void* shared, const void* global, size_t bytes, bool inside, Where where) {
  const size_t offset = check_address(name, shared, bytes, bytes, where);
  if (uintptr_t(global) % bytes != 0) {
    fail(std::string(name) + " from a misaligned address: not a multiple of " + std::to_string(bytes), where);
  }
  check_write(name, offset, bytes, where);
  // The bytes count when the copy finishes; this read shows the address sanitizer the line that asks for them.
  for (size_t i = 0; inside && i < bytes; ++i) {
    static_cast<void>(*(static_cast<const volatile char*>(global) + i));
  }
  Fiber& self = *machine.self;
  self.copies.push_back({offset, bytes, inside ? static_cast<const char*>(global) : nullptr, self.groups});
  mark_copy(self.copies.back(), uint16_t(self.thread));
}

void commit_copies() {
  ++machine.self->groups;
}

void finish_copies(int pending) {
  Fiber& self = *machine.self;
  auto copy = self.copies.begin();
  for (; copy != self.copies.end() && copy->group < self.groups - pending; ++copy) {
    if (copy->source != nullptr) {
      std::memcpy(machine.bytes + copy->offset, copy->source, copy->bytes);
    } else {
      std::memset(machine.bytes + copy->offset, 0, copy->bytes);
    }
    mark_copy(*copy, kNobody);
    mark_written(copy->offset, copy->bytes);
  }
  self.copies.erase(self.copies.begin(), copy);
}

void run_kernel(void (*call)(const void*), const void* argument, Grid grid, int threads, size_t shared_bytes) {
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  if (blocks == 0) return;
  ++machine.launches;
  std::string refusal;
  if (machine.running) refusal = "a kernel cannot launch a kernel";
  if (threads <= 0 || threads > kMaxThreads || threads % kLanes != 0) {
    refusal =
        std::to_string(threads) + " threads per block: not whole warps, or more than " + std::to_string(kMaxThreads);
  }
  if (shared_bytes > kMaxSharedBytes) {
    refusal = std::to_string(shared_bytes) + " bytes of shared memory: more than " + std::to_string(kMaxSharedBytes);
  }
  if (grid.y > 65535 || grid.z > 65535 || grid.x > 0x7fffffff) refusal = "the grid is larger than CUDA allows";
  if (!refusal.empty()) {
    report("simt: launch " + std::to_string(machine.launches) + ": " + refusal);
    machine.handler(std::exchange(machine.error, std::string()));
    return;
  }

  if (current.shared == nullptr) {
    void* memory = mmap(nullptr, kSharedAlignment + kMaxSharedBytes, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    current.shared = static_cast<char*>(memory) + kSharedAlignment;
  }
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

  std::vector<uint64_t> order;
  if (machine.seed != 0) {
    for (uint64_t i = 0; i < blocks; ++i) order.push_back(i);
    machine.random.permute(order, order.size());
  }
  machine.running = true;
  for (uint64_t i = 0; i < blocks && machine.error.empty(); ++i) {
    const uint64_t block = order.empty() ? i : order[i];
    run_block({unsigned(block % grid.x), unsigned(block / grid.x % grid.y), unsigned(block / grid.x / grid.y)});
  }
  machine.running = false;
  if (machine.error.empty()) return;
  // Threads that were left in the middle of the kernel start afresh next time.
  for (const std::unique_ptr<Fiber>& fiber : machine.fibers) fiber->started = false;
  machine.handler(std::exchange(machine.error, std::string()));
}

void compute_mma_k16(void* const* operands) {
  compute_mma<16>(operands);
}
void compute_mma_k8(void* const* operands) {
  compute_mma<8>(operands);
}

}  // namespace simt
