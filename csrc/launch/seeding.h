// Farthest points and nearest rows: what the driver hands to the kernels. Plain pointers; Torch-free.
//
// Farthest points (T. Gonzalez 1985) without a pass over all points for each seed. The cosine of a point to its nearest seed
// only grows as seeds are added, so what a chunk of rows knew some seeds ago bounds what it would know now from below. A
// chunk is brought up to date, with all the seeds that it has missed at once, only where that bound is not above the
// smallest cosine known to be current: no other chunk can hold the next seed (M. Minoux 1978, "lazy greedy").
//
// Phases: survey (every block); then for each seed refresh (the most promising block of each image, then every block), after
// which the driver chooses. Where the first seed is looked for, one round against the mean direction comes before, and
// reset (every block) after it. Tasks of a phase write disjoint memory but for the bound of their image, which falls
// towards the smallest cosine: when it does decides what is brought up to date, never what is chosen.
#pragma once

#include "block.h"
#include "plan.h"
#include "pool.h"

namespace rpe {

template <class T>
struct FarthestPoints {
  const T* points;       // [rows, dim]
  const int64_t* first;  // [images], below 0: the point farthest from the mean direction
  int64_t dim, num_seeds;
  T covered;  // from this cosine on a point counts as equal to a seed
  const Block* blocks;
  int64_t* index;  // [images, num_seeds], rows within the image

  // Workspace. Rows and chunks are those of padded row space.
  T* seeds;           // [images, num_seeds, dim]
  T* nearest;         // [rows], largest cosine with the seeds that the chunk has seen; infinite where not to be chosen
  T* smallest;        // [chunks], of `nearest`
  int64_t* seen;      // [chunks], how many seeds that is
  T* block_smallest;  // [blocks], of its chunks
  T* bound;           // [images], smallest cosine known to be current
  double* block_sum;  // [blocks, dim], of the finite rows
};

template <class T>
struct NearestRows {
  const T* points;  // [points, dim]
  const T* rows;    // [rows, dim]
  int64_t dim;
  const Block* blocks;         // of the points
  const int64_t* row_offsets;  // [images + 1]
  int64_t* nearest;            // [points], row within the image; -1 where there is none
};

template <class T>
struct SeedingKernels {
  void (*survey)(const FarthestPoints<T>&, int64_t block);
  void (*reset)(const FarthestPoints<T>&, int64_t block);
  void (*refresh)(const FarthestPoints<T>&, int64_t block, int64_t num_known, void* scratch);
  void (*nearest)(const NearestRows<T>&, int64_t block, void* scratch);
};

// All phases, for images that lie between `offsets` [images + 1]; images without points get zeros.
template <class T>
void run_farthest_points(FarthestPoints<T> problem, const int64_t* offsets, int64_t num_images, TaskPool& pool);
template <class T>
void run_nearest_rows(NearestRows<T> problem, const int64_t* offsets, int64_t num_images, TaskPool& pool);

}  // namespace rpe
