// Messages and their handler.
#include "errors.h"

#include <cstdio>
#include <cstdlib>
#include <utility>

namespace simt {

namespace {

struct Errors {
  ErrorHandler handler;
  std::string message;
  int64_t launches = 0;
};

Errors errors;

void report(const std::string& message) {
  if (!errors.handler) {
    std::fprintf(stderr, "%s\n", message.c_str());
    std::fflush(stderr);
    std::abort();
  }
  errors.message = message;
}

}  // namespace

void on_error(ErrorHandler handler) {
  errors.handler = std::move(handler);
}

std::string text_of(Where where) {
  const std::string file = where.file;
  return file.substr(file.find_last_of('/') + 1) + ":" + std::to_string(where.line);
}

void count_launch() {
  ++errors.launches;
}

void refuse_launch(const std::string& reason) {
  report("simt: launch " + std::to_string(errors.launches) + ": " + reason);
  call_handler();
}

bool launch_failed() {
  return !errors.message.empty();
}

void call_handler() {
  errors.handler(std::exchange(errors.message, std::string()));
}

void fail(const std::string& message, Where where) {
  const rpe::cuda::Grid block = current.block;
  std::string text = "simt: launch " + std::to_string(errors.launches) + ", block (" + std::to_string(block.x) + ", " +
                     std::to_string(block.y) + ", " + std::to_string(block.z) + "), thread " +
                     std::to_string(current.thread) + ": ";
  if (where.file != nullptr) text += text_of(where) + ": ";
  report(text + message);
  throw GivenUp();
}

}  // namespace simt
