// Pairwise loss with gradient: what the driver hands to the kernels. Plain pointers; Torch-free.
//
// Phases: prepare (every block), pair (every pair of every symmetric round, rounds in order), finish (every image).
// Calls of one phase may run at the same time: they write disjoint memory. Each running task brings its own scratch.
#pragma once

#include "block.h"
#include "chunk.h"
#include "half_rows.h"
#include "plan.h"
#include "pool.h"
#include "workspace.h"

#include <type_traits>

namespace rpe {

template <class T>
struct PairwiseLoss {
  using Label = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

  // Inputs. Rows are sorted by (image, instance); a row of weight 0 takes no part.
  const T* points;          // [rows, dim]
  const int64_t* instance;  // [rows]
  const T* weight;          // [rows]
  int64_t dim;
  T threshold;  // 2 margin - 1, on the cosine
  bool with_gradient;
  // The push sums bfloat16 copies: what the caller allows, until the driver has asked whether the kernels do.
  bool half;
  const Block* blocks;

  // Outputs.
  T* loss;      // [images]
  T* gradient;  // [rows, dim], null without gradient

  // Workspace, padded row space.
  int64_t stride;          // padded_dim(dim)
  T* rows;                 // [padded, stride]
  T* weighted_rows;        // [padded, stride], w_i x_i
  HalfRows half_weighted;  // of weighted_rows, with `half` alone
  T* panels;               // [padded / panel][dim][panel]
  T* centers;              // [chunks, stride]
  Chunk<T>* chunks;
  T* weights;           // [padded]
  Label* labels;        // [padded], relative to the image's first label
  T* push;              // [padded, stride], sum over active partners j of w_j x_j
  double* block_hinge;  // [blocks], sum of w_i w_j [cos - threshold]_+ over ordered pairs
};

template <class T>
struct PairwiseLossKernels {
  void (*prepare)(const PairwiseLoss<T>&, int64_t block);
  void (*pair)(const PairwiseLoss<T>&, BlockPair, void* scratch);
  void (*half_pair)(const PairwiseLoss<T>&, BlockPair, void* scratch);  // null where the variant has no such products
  void (*finish)(const PairwiseLoss<T>&, int64_t image, int64_t first_block, int64_t last_block);
  int64_t scratch_bytes;
};

// All phases, for images that lie between `offsets` [images + 1]. The caller fills in inputs and outputs; blocks and
// workspace are made here.
template <class T>
void run_pairwise_loss(PairwiseLoss<T> problem, const int64_t* offsets, int64_t num_images, TaskPool& pool);

}  // namespace rpe
