// What went wrong in a launch, on its way to the handler.
#pragma once

#include "simt.h"

#include <cstring>
#include <string>

namespace simt {

// Thrown by `fail`, so that the message's text is freed; the other fibers hold nothing, and are left as they are.
struct GivenUp {};

std::string text_of(Where where);
inline bool same(Where one, Where other) {
  return one.line == other.line && (one.file == other.file || std::strcmp(one.file, other.file) == 0);
}

void count_launch();

// The launch that was counted last cannot start.
void refuse_launch(const std::string& reason);

// `fail` was called, and the handler has not heard of it yet.
bool launch_failed();
void call_handler();

}  // namespace simt
