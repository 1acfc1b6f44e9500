// Farthest points and nearest rows of one SIMD variant (launch/seeding.h).
//
// Computes the largest cosine of every point with some rows, and which row has it. A task owns one block of points; a chunk
// of kRowQuantum of them is transposed into scratch (L1) and meets kRows rows at a time, with cosines and maxima in
// registers. Loads, sums and stores in T; the sum of all points in double.
// Deterministic: a cosine has the same bits however many rows are met at once, and a maximum has no order.
#include "../launch/seeding.h"

#include "tiles.h"

namespace rpe {
namespace RPE_SIMD {
namespace {

RPE_FORMULA int64_t chunk_rows(const Block& block, int64_t i) {
  return block.valid - i < kRowQuantum ? block.valid - i : kRowQuantum;
}

// `count` rows as panels; what is missing of kRowQuantum is zero.
template <class T>
RPE_KERNEL void pack_chunk(const T* rows, int64_t count, int64_t dim, T* panels) {
  for (int64_t first = 0; first < kRowQuantum; first += kPanel<T>) {
    T* panel = panels + first * dim;
    for (int64_t lane = 0; lane < kPanel<T>; ++lane) {
      const bool present = first + lane < count;
      const T* row = rows + (first + lane) * dim;
      for (int64_t d = 0; d < dim; ++d) panel[d * kPanel<T> + lane] = present ? row[d] : T(0);
    }
  }
}

// What is not finite is infinite in `nearest`: it is never the smallest.
template <class T>
void survey(const FarthestPoints<T>& p, int64_t index) {
  const Block& block = p.blocks[index];
  double* sum = p.block_sum + index * p.dim;
  for (int64_t d = 0; d < p.dim; ++d) sum[d] = 0;
  for (int64_t i = 0; i < block.rows; ++i) {
    const T* row = p.points + (block.source + i) * p.dim;
    bool finite = i < block.valid;
    for (int64_t d = 0; finite && d < p.dim; ++d) finite = row[d] - row[d] == T(0);
    p.nearest[block.row + i] = finite ? T(0) : T(__builtin_inf());
    for (int64_t d = 0; finite && d < p.dim; ++d) sum[d] += double(row[d]);
  }
}

template <class T>
RPE_FORMULA T smallest_of(const T* values, int64_t count) {
  T smallest = values[0];
  for (int64_t i = 1; i < count; ++i) smallest = values[i] < smallest ? values[i] : smallest;
  return smallest;
}

// Nothing is known of any seed.
template <class T>
void reset(const FarthestPoints<T>& p, int64_t index) {
  const Block& block = p.blocks[index];
  for (int64_t i = 0; i < block.rows; ++i) {
    T& nearest = p.nearest[block.row + i];
    nearest = nearest < T(__builtin_inf()) ? -T(__builtin_inf()) : nearest;
  }
  for (int64_t i = 0; i < block.rows; i += kRowQuantum) {
    const int64_t chunk = (block.row + i) / kRowQuantum;
    p.smallest[chunk] = smallest_of(p.nearest + block.row + i, kRowQuantum);
    p.seen[chunk] = 0;
  }
  p.block_smallest[index] = smallest_of(p.smallest + block.row / kRowQuantum, block.rows / kRowQuantum);
}

// largest = max(largest, cosines with MR rows), for one panel of points. A NaN raises nothing.
template <class T, int MR>
RPE_FORMULA void raise_largest(const T* rows, int64_t dim, const T* panel,
                               typename Simd<T>::Vector (&largest)[Simd<T>::kVectors]) {
  typename Simd<T>::Vector cosine[MR][Simd<T>::kVectors];
  clear<T>(cosine);
  dot_micro<T>(rows, dim, panel, dim, cosine);
  RPE_UNROLL
  for (int r = 0; r < MR; ++r) {
    RPE_UNROLL
    for (int v = 0; v < Simd<T>::kVectors; ++v) largest[v] = maximum(cosine[r][v], largest[v]);
  }
}

// Brings one chunk up to date with seeds [seen, num_known).
template <class T>
RPE_KERNEL void catch_up(const FarthestPoints<T>& p, const Block& block, int64_t i, int64_t num_known, T* panels) {
  using S = Simd<T>;
  const int64_t chunk = (block.row + i) / kRowQuantum;
  const T* seeds = p.seeds + block.image * p.num_seeds * p.dim;
  pack_chunk(p.points + (block.source + i) * p.dim, chunk_rows(block, i), p.dim, panels);
  for (int64_t first = 0; first < kRowQuantum; first += kPanel<T>) {
    T* nearest = p.nearest + block.row + i + first;
    typename S::Vector largest[S::kVectors];
    RPE_UNROLL
    for (int v = 0; v < S::kVectors; ++v) largest[v] = load<typename S::Vector>(nearest + v * kLanes<T>);
    int64_t seed = p.seen[chunk];
    for (; seed + S::kRows <= num_known; seed += S::kRows)
      raise_largest<T, S::kRows>(seeds + seed * p.dim, p.dim, panels + first * p.dim, largest);
    for (; seed < num_known; ++seed) raise_largest<T, 1>(seeds + seed * p.dim, p.dim, panels + first * p.dim, largest);
    RPE_UNROLL
    for (int v = 0; v < S::kVectors; ++v) store(nearest + v * kLanes<T>, largest[v]);
  }
  p.smallest[chunk] = smallest_of(p.nearest + block.row + i, kRowQuantum);
  p.seen[chunk] = num_known;
}

template <class T>
RPE_FORMULA void lower(T* bound, T value) {
  T known;
  __atomic_load(bound, &known, __ATOMIC_RELAXED);
  while (value < known &&
         !__atomic_compare_exchange(bound, &known, &value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

// Until the block's smallest cosine is current, or above one that is.
template <class T>
void refresh(const FarthestPoints<T>& p, int64_t index, int64_t num_known, void* scratch) {
  const Block& block = p.blocks[index];
  T* bound = p.bound + block.image;
  for (;;) {
    T known;
    __atomic_load(bound, &known, __ATOMIC_RELAXED);
    const T least = p.block_smallest[index];
    if (least > known || !(least < T(__builtin_inf()))) return;
    const int64_t begin = block.row / kRowQuantum;
    int64_t chunk = begin;
    while (p.smallest[chunk] != least) ++chunk;
    if (p.seen[chunk] == num_known) return lower(bound, least);
    catch_up(p, block, (chunk - begin) * kRowQuantum, num_known, static_cast<T*>(scratch));
    p.block_smallest[index] = smallest_of(p.smallest + begin, block.rows / kRowQuantum);
  }
}

// The same with the number of the row: of equal cosines the first.
template <class T, int MR>
RPE_FORMULA void raise_nearest(const T* rows, int64_t dim, const T* panel, int64_t number,
                               typename Simd<T>::Vector (&largest)[Simd<T>::kVectors],
                               typename Simd<T>::Labels (&nearest)[Simd<T>::kVectors]) {
  using S = Simd<T>;
  typename S::Vector cosine[MR][S::kVectors];
  clear<T>(cosine);
  dot_micro<T>(rows, dim, panel, dim, cosine);
  RPE_UNROLL
  for (int r = 0; r < MR; ++r) {
    const typename S::Labels own = broadcast<typename S::Labels>(typename S::Label(number + r));
    RPE_UNROLL
    for (int v = 0; v < S::kVectors; ++v) {
      nearest[v] = cosine[r][v] > largest[v] ? own : nearest[v];
      largest[v] = maximum(cosine[r][v], largest[v]);
    }
  }
}

template <class T>
void nearest(const NearestRows<T>& p, int64_t index, void* scratch) {
  using S = Simd<T>;
  const Block& block = p.blocks[index];
  const T* rows = p.rows + p.row_offsets[block.image] * p.dim;
  const int64_t num_rows = p.row_offsets[block.image + 1] - p.row_offsets[block.image];
  T* panels = static_cast<T*>(scratch);
  for (int64_t i = 0; i < block.valid; i += kRowQuantum) {
    const int64_t count = chunk_rows(block, i);
    pack_chunk(p.points + (block.source + i) * p.dim, count, p.dim, panels);
    typename S::Label number[kRowQuantum];
    for (int64_t first = 0; first < kRowQuantum; first += kPanel<T>) {
      typename S::Vector largest[S::kVectors];
      typename S::Labels nearest[S::kVectors];
      RPE_UNROLL
      for (int v = 0; v < S::kVectors; ++v) {
        largest[v] = broadcast<typename S::Vector>(-T(__builtin_inf()));
        nearest[v] = broadcast<typename S::Labels>(typename S::Label(-1));
      }
      const T* panel = panels + first * p.dim;
      int64_t row = 0;
      for (; row + S::kRows <= num_rows; row += S::kRows)
        raise_nearest<T, S::kRows>(rows + row * p.dim, p.dim, panel, row, largest, nearest);
      for (; row < num_rows; ++row) raise_nearest<T, 1>(rows + row * p.dim, p.dim, panel, row, largest, nearest);
      RPE_UNROLL
      for (int v = 0; v < S::kVectors; ++v) store(number + first + v * kLanes<T>, nearest[v]);
    }
    for (int64_t r = 0; r < count; ++r) p.nearest[block.source + i + r] = int64_t(number[r]);
  }
}

}  // namespace

extern const SeedingKernels<float> seeding_float32 = {survey<float>, reset<float>, refresh<float>, nearest<float>};
extern const SeedingKernels<double> seeding_float64 = {survey<double>, reset<double>, refresh<double>, nearest<double>};

}  // namespace RPE_SIMD
}  // namespace rpe
