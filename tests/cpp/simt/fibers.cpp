// Stacks, what a fresh one holds, and the exchange of registers.
#include "fibers.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>

#if defined(SIMT_ADDRESS_SANITIZER)
#include <sanitizer/asan_interface.h>
#endif

#if defined(SIMT_ASSEMBLY)
asm(R"(
  .pushsection .text
  .p2align 4
  .globl simt_switch_stack
  .hidden simt_switch_stack
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
#endif

namespace simt {

Context* left_context = nullptr;

namespace {

constexpr size_t kPageBytes = 4096;
constexpr size_t kStackBytes = 256 * 1024;
// Stacks start at different offsets, or their hot ends would all fall into the same few cache sets.
constexpr size_t kStackSteps = 64, kStackStepBytes = 17 * 64;

}  // namespace

char* allocate_stack() {
  void* memory = mmap(nullptr, kPageBytes + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kPageBytes, PROT_NONE) != 0) {
    std::fprintf(stderr, "simt: no memory for the stacks of threads\n");
    std::abort();
  }
  return static_cast<char*>(memory) + kPageBytes;
}

void start_context(Context& context, char* stack, int index, void (*run)()) {
  const size_t bytes = kStackBytes - size_t(index) % kStackSteps * kStackStepBytes;
#if defined(SIMT_ADDRESS_SANITIZER)
  __asan_unpoison_memory_region(stack, kStackBytes);
#endif
  context = Context();
  context.stack_bottom = stack;
  context.stack_bytes = bytes;
#if defined(SIMT_ASSEMBLY)
  // Six registers, the address to return to, and the return address of that function, which never returns.
  void** top = reinterpret_cast<void**>(stack + bytes);
  std::fill(top - 8, top, nullptr);
  top[-2] = reinterpret_cast<void*>(run);
  context.stack_pointer = top - 8;
#else
  getcontext(&context.registers);
  context.registers.uc_stack.ss_sp = stack;
  context.registers.uc_stack.ss_size = bytes;
  context.registers.uc_link = nullptr;
  makecontext(&context.registers, run, 0);
#endif
}

}  // namespace simt
