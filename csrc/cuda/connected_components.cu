// Connected components on a GPU: each point's smallest foreign root among its neighbours. The rounds around it are in
// rpe_ops/backends/boruvka.py.
#include "connected_components.h"
#include "rows.cuh"

namespace rpe {
namespace cuda {
namespace {

struct RootWork {
  ForeignRoot round;
  Operand points;
  const int32_t* tiles_before;  // [images + 1]
};

// Sets every point's neighbour to none.  Owns: one point a thread.  Types: integers.  Bits: integers.
RPE_KERNEL(kRowThreads, 1) no_neighbour_kernel(RootWork p) {
  const int64_t row = int64_t(block_index().x) * kRowThreads + thread_index();
  if (row < p.round.num_points) p.round.neighbour[row] = int32_t(p.round.num_points);
}

// The smallest root, other than its own, among the points joined to each point, over one split of the columns.
// Computes min { root_j : c_ij >= threshold, root_j != root_i }.
// Owns     kBlockM rows of one image; thread block (row tile, split).
// Tiles    x_i [kBlockM, kDim] as fragments, x_j [kBlockN, kDim] in kStages stages of shared memory.
// Types    float32-grade cosines, int32 roots.
// Bits     integer minima, in any order: deterministic.
// Does nothing once `unfinished` is 0, so that a fixed number of rounds can be queued without asking the device.
template <class T>
RPE_KERNEL(T::kThreads, T::kBlocksWanted)
foreign_root_kernel(RootWork p) {
  using Tiles = SharedTiles<T>;
  Work work;
  if (*p.round.unfinished == 0) return;
  if (!find_work<T>(work, p.tiles_before, p.round.num_images, p.round.offsets, p.round.offsets)) return;
  const int first_row = work.row_begin + warp_index() * T::kRowTiles * 16;
  const int count = work.column_end - work.column_begin, none = int(p.round.num_points);
  RowOperand<T> x;
  int32_t own[T::kRowTiles][2], smallest[T::kRowTiles][2];
  load_numbers<T>(own, p.round.root, first_row, work.row_end, 0);
#pragma unroll
  for (int k = 0; k < 2 * T::kRowTiles; ++k) smallest[k / 2][k % 2] = none;
  const auto copy = [&](int number) {
    const int first = work.column_begin + number * T::kBlockN;
    copy_partners<T>(number, 0, p.points, first, work.column_end);
    copy_numbers<T::kBlockN, T::kThreads>(Tiles::template numbers<int32_t>(number, 0), p.round.root, first,
                                          work.column_end);
  };
  const auto visit = [&](int number) {
    const TileOperand x_j = Tiles::column_operand(number, 0);
    const int32_t* root = Tiles::template numbers<int32_t>(number, 0);
    const int columns = count - number * T::kBlockN;
#pragma unroll(T::kUnroll)
    for (int column = 0; column < T::kBlockN; column += 16) {
      Chunk cosine[T::kRowTiles] = {};
      rows_times_rows<T>(cosine, x, x_j, column);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int place = column + k / 2 * 8 + lane_index() % 4 * 2 + k % 2;
        const int32_t other = place < columns ? shared_load(root + place) : none;
#pragma unroll
        for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const bool joined = cosine[m][k / 2][2 * half + k % 2] >= p.round.threshold && other != own[m][half];
            if (joined && other < smallest[m][half]) smallest[m][half] = other;
          }
        }
      }
    }
  };
  copy_own_rows<T>(0, p.points, work);
  walk_tiles<T>(
      share_of_split((count + T::kBlockN - 1) / T::kBlockN, work), copy, [&] { x.load(Tiles::row_operand(0)); }, visit);
#pragma unroll
  for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int32_t value = smallest[m][half];
#pragma unroll
      for (int mask = 1; mask < 4; mask *= 2) {
        const int32_t other = shuffle_xor(value, mask);
        value = other < value ? other : value;
      }
      const int row = first_row + m * 16 + lane_index() / 4 + 8 * half;
      if (lane_index() % 4 == 0 && row < work.row_end && value < none) atomic_min(p.round.neighbour + row, value);
    }
  }
}

template <int kDim>
size_t run_foreign_root(const ForeignRoot& round, void* workspace, Stream stream) {
  using T = Traits<Walk::kComponents, kDim, true>;
  Workspace space(workspace);
  const unsigned tiles = largest_tile_count(round.num_points, round.num_images, T::kBlockM);
  const unsigned splits = split_count(tiles, round.num_points, round.num_images, T::kBlockN, round.processors);
  const OperandSpace<kDim, true> points(space, round.num_points);
  int32_t* tiles_before = space.take<int32_t>(round.num_images + 1);
  if (workspace == nullptr) return space.bytes();
  const RootWork p{round, points.operand(), tiles_before};
  count_tiles(tiles_before, round.offsets, round.num_images, T::kBlockM, stream);
  points.prepare(round.points, round.num_points, round.dim, stream);
  launch(no_neighbour_kernel, {unsigned((round.num_points + kRowThreads - 1) / kRowThreads), 1, 1}, kRowThreads, 0,
         stream, p);
  launch(foreign_root_kernel<T>, {tiles, splits, 1}, T::kThreads, T::kSharedBytes, stream, p);
  return space.bytes();
}

}  // namespace

size_t foreign_root(const ForeignRoot& round, void* workspace, void* stream) {
  return with_widths(round.dim, false, [&](auto width, auto) {
    return run_foreign_root<decltype(width)::value>(round, workspace, Stream(stream));
  });
}

void connected_components_resources(std::vector<KernelResources>& all) {
  with_every_width([&](auto width, auto split) {
    if (decltype(split)::value == 0) return;
    using Components = Traits<Walk::kComponents, decltype(width)::value, true>;
    append_resources<Components>(all, "foreign_root_kernel", foreign_root_kernel<Components>);
  });
}

}  // namespace cuda
}  // namespace rpe
