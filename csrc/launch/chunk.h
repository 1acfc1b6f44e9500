// A chunk: kRowQuantum consecutive rows of a block, or what is left of it. Drivers make room for them, kernels bound with
// them what two chunks can have to do with each other (csrc/cpu/bounds.h). Plain data.
#pragma once

#include "block.h"

namespace rpe {

// Its rows lie within `radius` of their centre.
template <class T>
struct Chunk {
  T radius, center_squared, shortest_squared;
  T slack;      // more than the rounding of any product with such rows
  double mass;  // sum of the rows' masses
};

}  // namespace rpe
