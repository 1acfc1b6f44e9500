// Shared memory, and a shadow of it that knows of races, of reads of what nothing wrote, and of pending copies.
#include "shared_memory.h"

#include "simt.h"

#include <algorithm>
#include <cstdlib>
#include <sys/mman.h>
#include <vector>

namespace simt {

namespace {

// The alignment that kernels may count on; the emulated address is a multiple of no more than this.
constexpr size_t kSharedAlignment = 128;
constexpr size_t kGranuleBytes = 2;

constexpr uint16_t kNobody = 0xffff, kSeveral = 0xfffe;

// What happened to two bytes. Epochs end at barriers and are never used twice.
struct Granule {
  uint32_t write_epoch = 0, read_epoch = 0;
  uint16_t writer = kNobody, reader = kNobody, copier = kNobody;
};

struct Copy {
  size_t offset, bytes;
  const char* source;  // nullptr: zeros
  int64_t group;
};

// Of one thread.
struct Copies {
  std::vector<Copy> pending;  // in order of issue
  int64_t groups = 0;         // committed
};

struct Memory {
  size_t size = 0;
  uint32_t epoch = 0, first_epoch = 0;  // now, and at the start of the block
  size_t threads = 0;
  std::vector<Copies> copies;  // by thread
  std::vector<Granule> granules = std::vector<Granule>(kMaxSharedBytes / kGranuleBytes);
  alignas(kSharedAlignment) char bytes[kMaxSharedBytes];
};

Memory memory;

std::string range_text(const char* name, size_t offset, size_t bytes) {
  return std::string(name) + " of shared bytes [" + std::to_string(offset) + ", " + std::to_string(offset + bytes) +
         ")";
}

size_t check_address(const char* name, const void* address, size_t bytes, size_t alignment, Where where) {
  const size_t offset = uintptr_t(address) - uintptr_t(current.shared);
  if (offset > memory.size || bytes > memory.size - offset) {
    const auto distance = std::to_string(int64_t(offset));
    fail(std::string(name) + " outside of the " + std::to_string(memory.size) +
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
    const Granule& granule = memory.granules[i];
    const bool written = granule.write_epoch == memory.epoch && granule.writer != self;
    const bool read = granule.read_epoch == memory.epoch && granule.reader != self;
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
    memory.granules[i].write_epoch = memory.epoch;
    memory.granules[i].writer = self;
  }
}

void mark_copy(const Copy& copy, uint16_t copier) {
  for (size_t i = 0; i < copy.bytes / kGranuleBytes; ++i)
    memory.granules[copy.offset / kGranuleBytes + i].copier = copier;
}

}  // namespace

void start_shared_memory(size_t bytes, int threads) {
  if (current.shared == nullptr) {
    void* addresses = mmap(nullptr, kSharedAlignment + kMaxSharedBytes, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (addresses == MAP_FAILED) std::abort();
    current.shared = static_cast<char*>(addresses) + kSharedAlignment;
  }
  memory.size = bytes;
  memory.first_epoch = ++memory.epoch;
  memory.threads = size_t(threads);
  if (memory.copies.size() < memory.threads) memory.copies.resize(memory.threads);
  std::memset(memory.bytes, 0xff, bytes);
}

void finish_shared_memory() {
  for (size_t thread = 0; thread < memory.threads; ++thread) {
    Copies& copies = memory.copies[thread];
    for (const Copy& copy : copies.pending) mark_copy(copy, kNobody);
    copies.pending.clear();
    copies.groups = 0;
  }
}

void order_accesses() {
  ++memory.epoch;
}

const char* read_shared(const char* name, const void* address, size_t bytes, size_t alignment, Where where) {
  const size_t offset = check_address(name, address, bytes, alignment, where);
  const uint16_t self = uint16_t(current.thread);
  for (size_t i = offset / kGranuleBytes; i < (offset + bytes) / kGranuleBytes; ++i) {
    Granule& granule = memory.granules[i];
    const bool raced = granule.write_epoch == memory.epoch && granule.writer != self;
    if (granule.copier != kNobody || granule.write_epoch < memory.first_epoch || raced) {
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
    if (granule.read_epoch != memory.epoch) {
      granule.read_epoch = memory.epoch;
      granule.reader = self;
    } else if (granule.reader != self) {
      granule.reader = kSeveral;
    }
  }
  return memory.bytes + offset;
}

char* write_shared(const char* name, void* address, size_t bytes, size_t alignment, Where where) {
  const size_t offset = check_address(name, address, bytes, alignment, where);
  check_write(name, offset, bytes, where);
  mark_written(offset, bytes);
  return memory.bytes + offset;
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
  Copies& copies = memory.copies[size_t(current.thread)];
  copies.pending.push_back({offset, bytes, inside ? static_cast<const char*>(global) : nullptr, copies.groups});
  mark_copy(copies.pending.back(), uint16_t(current.thread));
}

void commit_copies() {
  ++memory.copies[size_t(current.thread)].groups;
}

void finish_copies(int pending) {
  Copies& copies = memory.copies[size_t(current.thread)];
  auto copy = copies.pending.begin();
  for (; copy != copies.pending.end() && copy->group < copies.groups - pending; ++copy) {
    if (copy->source != nullptr) {
      std::memcpy(memory.bytes + copy->offset, copy->source, copy->bytes);
    } else {
      std::memset(memory.bytes + copy->offset, 0, copy->bytes);
    }
    mark_copy(*copy, kNobody);
    mark_written(copy->offset, copy->bytes);
  }
  copies.pending.erase(copies.pending.begin(), copy);
}

}  // namespace simt
