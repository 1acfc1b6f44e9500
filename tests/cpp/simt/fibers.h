// Fibers' contexts: a stack, the registers on it, and the switch from one context to another.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ADDRESS_SANITIZER 1
#endif
#endif
#if defined(SIMT_ADDRESS_SANITIZER)
#include <sanitizer/common_interface_defs.h>
#endif

// swapcontext asks the kernel for the signal mask at every switch, which costs more than everything else here.
#if defined(__x86_64__) && defined(__ELF__) && !defined(SIMT_UCONTEXT)
#define SIMT_ASSEMBLY 1
// Saves the registers that calls preserve, on the old stack, and takes them from the new one.
extern "C" __attribute__((visibility("hidden"))) void simt_switch_stack(void** old_stack, void* new_stack);
#else
#include <ucontext.h>
#endif

namespace simt {

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

extern Context* left_context;  // the one that was left last

char* allocate_stack();

// The next switch to `context` calls `run`, which starts with `finish_switch` and never returns. Contexts of other
// `index` start elsewhere in their stacks.
void start_context(Context& context, char* stack, int index, void (*run)());

inline void finish_switch(Context& context) {
#if defined(SIMT_ADDRESS_SANITIZER)
  __sanitizer_finish_switch_fiber(context.fake_stack, &left_context->stack_bottom, &left_context->stack_bytes);
#else
  (void)context;
#endif
}

inline void switch_context(Context& from, Context& to) {
  left_context = &from;
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

}  // namespace simt
