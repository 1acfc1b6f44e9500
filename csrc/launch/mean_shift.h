// One mean-shift step, forward and backward: what the driver hands to the kernels. Plain pointers; Torch-free.
//
// Per image one of two routes, chosen by plan_routes from a survey of the rows:
//   fixed    every row's density is known to be representable relative to the reference 1 (cosine of a point with itself),
//            so K_ij = exp(kappa (cos_ij - 1)) needs no row maximum. Blurring then visits each pair of blocks once.
//   running  any kappa, masses, lengths or distant seeds: each row keeps the largest logit seen so far as its reference.
//
// Where tol > 0, products between chunks of kRowQuantum rows are bounded, and tiles that no density can miss are left out
// (csrc/cpu/bounds.h, MeanShift::least_cosine). Images of which a sample says that next to nothing can be left out keep all.
// Both directions derive the same choice from the same rows.
//
// Phases forward:   survey (all blocks of both sides), plan_routes, pack_points / pack_sources (all blocks), with tol > 0
//            share_out_of_reach (some point blocks) and reach (each point block of images where that says so), then
//            blurring + fixed: pair (symmetric rounds);  otherwise: rows (each point block, all its image's sources);
//            finish (each point block). Few points and many sources: stream (each run) and merge (each point block)
//            instead of rows, and no pack_sources.
// Phases backward:  survey, plan_routes, pack_*, share_out_of_reach, reach, clear_sources and prologue (each block), then
//            blurring + fixed: pair (symmetric rounds);  otherwise: rows, then rectangle (rectangular rounds);
//            finish_points, finish_sources (each block).
// Calls of one phase may run at the same time: they write disjoint memory. Each running task brings its own scratch.
#pragma once

#include "block.h"
#include "chunk.h"
#include "half_rows.h"
#include "plan.h"
#include "pool.h"

namespace rpe {

// Extremes over the rows of one block.
struct RowSurvey {
  double largest_squared;  // |row|^2
  double largest_bias;     // log mass
  double smallest_self;    // bias + kappa (|row|^2 - 1): the row's logit with itself
};

struct Route {
  bool fixed;
  double bias;  // largest log mass of the image: masses are taken relative to it
};

// Consecutive blocks of sources of one image, over which all its points sum in one task: where few points meet many
// sources, this is what there is to share out.
struct SourceRun {
  int64_t image, first_source, last_source;
  int64_t shift;  // from a point's row to its row of the partial results
};

template <class T>
struct MeanShift {
  // Inputs.
  const T* points;      // [points, dim]
  const T* sources;     // [sources, dim]; the points themselves when blurring
  const T* log_weight;  // [sources] or null: every mass is 1
  bool blurring;
  T kappa, eta;
  double tol;  // largest share of any density that may be left out; 0: nothing is
  // Images of the fixed route are blurred with products of bfloat16 copies: what the caller allows, until the driver has
  // asked whether kappa and the kernels do.
  bool half;
  int64_t dim;
  const Block* point_blocks;
  const Block* source_blocks;  // equal to point_blocks when blurring
  const Route* routes;         // [images]

  // Workspace, padded row space. Padding rows are zero rows of zero mass.
  int64_t stride;     // padded_dim(dim)
  T* point_rows;      // [points, stride]
  T* source_rows;     // [sources, stride]; = point_rows when blurring
  T* source_panels;   // [sources / panel][dim][panel]
  T* mass_rows;       // [sources, stride], m_j y_j; = source_rows without weights
  T* mass;            // [sources], m_j = exp(bias_j - route.bias)
  T* bias;            // [sources], log2 m_j, -inf for padding
  double* density;    // [points], sum_j exp2(logit_ij - reference_i)
  T* reference;       // [points], cosine of the reference
  T* reference_bias;  // [points], log2 mass of the reference; -inf before the first
  T* point_panels;    // as source_panels; this and the following null without tol
  T* point_centers;   // [point chunks, stride]
  T* source_centers;  // those of points are those of sources when blurring
  Chunk<T>* point_chunks;
  Chunk<T>* source_chunks;
  // [point chunks]: partners whose cosines all lie below make up at most tol of any row's density; -inf: none are left out
  T* least_cosine;
  T* partial_sums;          // [partial rows, stride]; this and the following as those without "partial", of one run
  double* partial_density;  // [partial rows]
  T* partial_reference;
  T* partial_reference_bias;
  T* sums;  // [points, stride]. Forward: sum_j K_ij m_j y_j. Backward: R, running route only (else null)

  HalfRows half_points;  // this and the following with `half` alone
  HalfRows half_masses;  // of mass_rows; those of points without weights
  HalfRows half_slopes;  // of slope_rows, backward
  T* half_excess;        // [points], (|copy|^2 - |row|^2) / 2, which is taken off every cosine of a row

  // Forward outputs.
  T* moved;        // [points, dim]
  T* mean;         // [points, dim]
  T* log_density;  // [points], relative to kappa

  // Backward inputs and outputs.
  const T* grad_moved;
  const T* saved_mean;
  const T* saved_log_density;
  bool with_grad_weight;
  T* grad_points;            // [points, dim]
  T* grad_sources;           // [sources, dim], null when blurring
  T* grad_log_weight;        // [sources] or null
  double* block_grad_kappa;  // [point blocks]
  double* block_grad_eta;    // [point blocks]

  // Backward workspace. Fixed route: slope_rows = f h, slope_offset = f e with f = 1/d. Running route: h and e.
  T* slope_rows;        // [points, stride]
  T* slope_offset;      // [points]
  T* slope_panels;      // [points / panel][dim][panel], fixed route
  T* mass_panels;       // as source_panels for m_j x_j; = source_panels without weights
  T* weighted_sums;     // [sources, stride], fixed: K (f h); running: P^T h
  T* slope_sums;        // [sources, stride], fixed: T x;     running: S^T x
  double* row_slopes;   // [points], running: row sums of S
  double* offset_sums;  // [sources], fixed: K (f e);      running: column sums of S
};

template <class T>
struct MeanShiftKernels {
  void (*survey)(const T* rows, const T* log_weight, double kappa, int64_t dim, const Block&, RowSurvey&);
  void (*pack_points)(const MeanShift<T>&, int64_t block);
  void (*pack_sources)(const MeanShift<T>&, int64_t block);
  // Of the image's chunks of sources, those that the block's first chunk can do without.
  double (*share_out_of_reach)(const MeanShift<T>&, int64_t point_block, int64_t first_source, int64_t last_source);
  void (*reach)(const MeanShift<T>&, int64_t point_block, int64_t first_source, int64_t last_source);
  void (*pair)(const MeanShift<T>&, BlockPair, void* scratch);
  void (*half_pair)(const MeanShift<T>&, BlockPair, void* scratch);  // null where the variant has no such products
  void (*rows)(const MeanShift<T>&, int64_t point_block, int64_t first_source, int64_t last_source, bool with_mean,
               void* scratch);
  // Scratch of scratch_bytes + stage_bytes(): a block of sources is staged there.
  void (*stream)(const MeanShift<T>&, const SourceRun&, int64_t first_point_block, int64_t last_point_block,
                 void* scratch);
  void (*merge)(const MeanShift<T>&, int64_t point_block, const SourceRun* first, const SourceRun* last);
  void (*finish)(const MeanShift<T>&, int64_t point_block);
  int64_t scratch_bytes;
};

// One block of sources: panels, rows and biases.
template <class T>
inline int64_t stage_bytes(const MeanShift<T>& problem) {
  return kMaxBlockRows * (problem.dim + problem.stride + 1) * int64_t(sizeof(T));
}

template <class T>
struct MeanShiftBackwardKernels {
  void (*clear_sources)(const MeanShift<T>&, int64_t source_block);
  void (*prologue)(const MeanShift<T>&, int64_t point_block);
  void (*pair)(const MeanShift<T>&, BlockPair, void* scratch);
  void (*half_pair)(const MeanShift<T>&, BlockPair, void* scratch);
  void (*rectangle)(const MeanShift<T>&, BlockPair, void* scratch);
  void (*finish_points)(const MeanShift<T>&, int64_t point_block);
  void (*finish_sources)(const MeanShift<T>&, int64_t source_block);
  int64_t scratch_bytes;
};

// What bounds the fixed route: the largest |log density|, and the rounding error of a cosine.
struct RouteLimits {
  double log_density;
  double rounding;
};

// One route per image.
std::vector<Route> plan_routes(const BlockPlan& points, const BlockPlan& sources, const RowSurvey* point_surveys,
                               const RowSurvey* source_surveys, double kappa, bool blurring, RouteLimits limits);

// All phases, for images that lie between `point_offsets` and `source_offsets` [images + 1] (both the same when
// blurring). The caller fills in inputs and outputs; the rest is made here. kappa and eta are passed in double: kappa may
// be larger than T holds.
template <class T>
void run_mean_shift_forward(MeanShift<T> problem, double kappa, double eta, const int64_t* point_offsets,
                            const int64_t* source_offsets, int64_t num_images, TaskPool& pool);

struct ScalarGradients {
  double kappa, eta;
};

template <class T>
ScalarGradients run_mean_shift_backward(MeanShift<T> problem, double kappa, double eta, const int64_t* point_offsets,
                                        const int64_t* source_offsets, int64_t num_images, TaskPool& pool);

}  // namespace rpe
