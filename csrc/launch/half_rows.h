// bfloat16 copies of padded rows, two numbers to a word, in the three orders in which products read them. Plain data.
#pragma once

#include "workspace.h"

#include <cstdint>

namespace rpe {

struct HalfRows {
  int64_t stride;        // numbers of a padded row
  int64_t pairs_of_dim;  // (dim + 1) / 2; the last word of an odd dim is filled up with zero
  uint32_t* rows;        // [rows][pairs_of_dim]
  uint32_t* panels;      // [rows / panel][pairs_of_dim][panel]
  uint32_t* partners;    // [rows / 2][stride], rows 2 i and 2 i + 1 side by side
};

// Partners in sums alone, without the two orders in which rows are multiplied with one another.
inline HalfRows take_half_partners(Workspace& workspace, int64_t rows, int64_t stride, int64_t dim) {
  return {stride, (dim + 1) / 2, nullptr, nullptr, workspace.take<uint32_t>(rows / 2 * stride)};
}

inline HalfRows take_half_rows(Workspace& workspace, int64_t rows, int64_t stride, int64_t dim) {
  HalfRows half = take_half_partners(workspace, rows, stride, dim);
  half.rows = workspace.take<uint32_t>(rows * half.pairs_of_dim);
  half.panels = workspace.take<uint32_t>(rows * half.pairs_of_dim);
  return half;
}

}  // namespace rpe
