// Which tiles a thread block walks over, where they lie in shared memory, and the walk itself with its asynchronous copies.
// What is done with a tile is the kernel's (products: tiles.cuh). It knows no operator's formula.
#pragma once

#include "tile_list.h"
#include "tiles.cuh"

namespace rpe {
namespace cuda {

// What one thread block does: a tile of rows of one image, against one split of the partners, for one slice.
struct Work {
  int image;
  int row_begin, row_end;        // of the tile; row_end is the image's last row at most
  int column_begin, column_end;  // of the image's partners
  int split, num_splits, slice;
  // Listed walks alone: where the row tile's part of the list begins, and how many chunks are in it.
  const int32_t* chunks;
  int num_chunks;
};

// The last segment that begins at or before `value`, for `begin` [count + 1] that never falls.
template <class T>
RPE_DEVICE int find_segment(const T* begin, int count, int64_t value) {
  int low = 0, high = count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (int64_t(begin[middle]) <= value) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// Grid: x row tiles, as many as there may be, y splits, z slices. False past the last tile.
template <class T>
RPE_DEVICE bool find_work(Work& work, const int32_t* tiles_before, int num_images, const int64_t* row_offsets,
                          const int64_t* column_offsets, [[maybe_unused]] const TileList& list = {}) {
  const Grid block = block_index();
  const int tile = int(block.x);
  if (tile >= tiles_before[num_images]) return false;
  const int image = find_segment(tiles_before, num_images, tile);
  work.image = image;
  work.row_begin = int(row_offsets[image]) + (tile - tiles_before[image]) * T::kBlockM;
  work.row_end = int(row_offsets[image + 1]);
  work.column_begin = int(column_offsets[image]);
  work.column_end = int(column_offsets[image + 1]);
  work.split = int(block.y);
  work.num_splits = int(grid_size().y);
  work.slice = int(block.z);
  if constexpr (T::kListed) {
    const int32_t* begin = list.begin + list.before[image] + (work.row_begin - int(row_offsets[image])) / kListChunk;
    work.chunks = list.columns + begin[0];
    work.num_chunks = begin[1] - begin[0];
  }
  return true;
}

// First and last of `count` things that one split does; the same for equal shapes.
struct Range {
  int first, last;
};
RPE_DEVICE Range share_of_split(int count, const Work& work) {
  const int each = (count + work.num_splits - 1) / work.num_splits;
  const int first = work.split * each < count ? work.split * each : count;
  return {first, first + each < count ? first + each : count};
}

// The tiles of one split, by number: all of the image's columns, or those of the listed chunks one after the other.
template <class T>
RPE_DEVICE Range tiles_of_split(const Work& work) {
  if constexpr (T::kListed) {
    constexpr int kTiles = kListChunk / T::kBlockN;
    const Range chunks = share_of_split(work.num_chunks, work);
    if (chunks.first >= chunks.last) return {0, 0};
    // an image ends in its last chunk
    const int room = work.column_end - work.chunks[chunks.last - 1];
    const int last = room < kListChunk ? (room + T::kBlockN - 1) / T::kBlockN : kTiles;
    return {chunks.first * kTiles, (chunks.last - 1) * kTiles + last};
  } else {
    return share_of_split((work.column_end - work.column_begin + T::kBlockN - 1) / T::kBlockN, work);
  }
}
// First column of a tile.
template <class T>
RPE_DEVICE int tile_column(const Work& work, int number) {
  if constexpr (T::kListed) {
    constexpr int kTiles = kListChunk / T::kBlockN;
    return work.chunks[number / kTiles] + number % kTiles * T::kBlockN;
  } else {
    return work.column_begin + number * T::kBlockN;
  }
}
// Columns of the image from the beginning of a tile.
template <class T>
RPE_DEVICE int columns_from(const Work& work, int number) {
  if constexpr (T::kListed) {
    return work.column_end - tile_column<T>(work, number);
  } else {
    return work.column_end - work.column_begin - number * T::kBlockN;
  }
}

// Shared memory of a thread block, as the traits lay it out.
template <class T>
struct SharedTiles {
  RPE_DEVICE_MEMBER static Half* row_part(int operand, int copy) {
    return reinterpret_cast<Half*>(shared_memory() + (operand * T::kCopies + copy) * T::kRowBytes);
  }
  RPE_DEVICE_MEMBER static char* stage(int number) {
    return shared_memory() + T::kParts.rows * T::kCopies * T::kRowBytes + number % T::kStages * T::kStageBytes;
  }
  RPE_DEVICE_MEMBER static Half* column_part(int number, int operand, int copy) {
    return reinterpret_cast<Half*>(stage(number) + (operand * T::kCopies + copy) * T::kColumnBytes);
  }
  template <class V>
  RPE_DEVICE_MEMBER static V* numbers(int number, int which) {
    return reinterpret_cast<V*>(stage(number) + T::kParts.columns * T::kCopies * T::kColumnBytes +
                                which * T::kNumberBytes);
  }
  RPE_DEVICE_MEMBER static TileOperand row_operand(int operand) {
    return {row_part(operand, 0), row_part(operand, T::kCopies - 1)};
  }
  RPE_DEVICE_MEMBER static TileOperand column_operand(int number, int operand) {
    return {column_part(number, operand, 0), column_part(number, operand, T::kCopies - 1)};
  }
};

// Rows in global memory as operands: float16 [rows, kDim], in one part or two.
struct Operand {
  const Half* high;
  const Half* low;
};

template <class T>
RPE_DEVICE void copy_own_rows(int operand, Operand rows, const Work& work) {
  using Tiles = SharedTiles<T>;
  copy_rows<T::kDim, T::kBlockM, T::kThreads>(Tiles::row_part(operand, 0), rows.high, work.row_begin, work.row_end);
  if constexpr (T::kSplit)
    copy_rows<T::kDim, T::kBlockM, T::kThreads>(Tiles::row_part(operand, 1), rows.low, work.row_begin, work.row_end);
}
template <class T>
RPE_DEVICE void copy_partners(int number, int operand, Operand rows, int first, int end) {
  using Tiles = SharedTiles<T>;
  copy_rows<T::kDim, T::kBlockN, T::kThreads>(Tiles::column_part(number, operand, 0), rows.high, first, end);
  if constexpr (T::kSplit)
    copy_rows<T::kDim, T::kBlockN, T::kThreads>(Tiles::column_part(number, operand, 1), rows.low, first, end);
}

// Walks over tiles first .. last - 1 in order. `copy(number)` starts a tile's copies, which may use any stage;
// `begin()` runs once the own rows, whose copies were started before, are there; `visit(number)` does one tile.
template <class T, class Copy, class Begin, class Visit>
RPE_DEVICE void walk_tiles(Range tiles, const Copy& copy, const Begin& begin, const Visit& visit) {
#pragma unroll
  for (int ahead = 0; ahead < T::kStages - 1; ++ahead) {
    if (tiles.first + ahead < tiles.last) copy(tiles.first + ahead);
    copy_async_commit();
  }
  copy_async_wait<T::kStages - 2>();
  barrier();
  begin();
  for (int number = tiles.first; number < tiles.last; ++number) {
    copy_async_wait<T::kStages - 2>();
    barrier();  // the tile is there for all, and nobody reads the stage that is filled next
    if (number + T::kStages - 1 < tiles.last) copy(number + T::kStages - 1);
    copy_async_commit();
    visit(number);
  }
}

}  // namespace cuda
}  // namespace rpe
