// Connected components of the threshold graph: what the driver hands to the kernels. Plain pointers; Torch-free.
//
// Phases: prepare (every block), pair (every pair of every symmetric round), number (every image).
// Tasks share the union-find forest through atomic compare-and-swap. Roots are smallest indices, so the final forest's
// components, and the labels, do not depend on the order of the tasks.
#pragma once

#include "block.h"
#include "chunk.h"
#include "plan.h"
#include "pool.h"
#include "workspace.h"

#include <type_traits>

namespace rpe {

template <class T>
struct ConnectedComponents {
  using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

  const T* points;  // [rows, dim]
  int64_t dim;
  T threshold;  // 2 threshold - 1, on the cosine
  const Block* blocks;
  int64_t* labels;  // [rows]

  // Workspace, padded row space. Padding rows are NaN: no comparison with them holds.
  int64_t stride;
  T* rows;     // [padded, stride]
  T* panels;   // [padded / panel][dim][panel]
  T* centers;  // [chunks, stride]
  Chunk<T>* chunks;
  Index* parent;  // [padded]
};

template <class T>
struct ConnectedComponentsKernels {
  void (*prepare)(const ConnectedComponents<T>&, int64_t block);
  void (*pair)(const ConnectedComponents<T>&, BlockPair, void* scratch);
  void (*number)(const ConnectedComponents<T>&, int64_t first_block, int64_t last_block);
  int64_t scratch_bytes;
};

// All phases, for images that lie between `offsets` [images + 1].
template <class T>
void run_connected_components(ConnectedComponents<T> problem, const int64_t* offsets, int64_t num_images,
                              TaskPool& pool);

}  // namespace rpe
