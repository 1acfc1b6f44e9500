// For each chunk of rows the columns that it has to see, made by rpe_ops/backends/tile_list.py. Plain pointers to device
// memory.
#pragma once

#include <cstdint>

namespace rpe {
namespace cuda {

struct TileList {
  const int32_t* before;   // [images + 1], chunks before each image
  const int32_t* begin;    // [chunks + 1], where each chunk's part of `columns` begins
  const int32_t* columns;  // first columns of the chunks seen, rising for each chunk of rows; null: every row sees all
};

}  // namespace cuda
}  // namespace rpe
