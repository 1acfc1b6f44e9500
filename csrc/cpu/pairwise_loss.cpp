// Pairwise loss kernels of one SIMD variant (math/pairwise_term.h, launch/pairwise_loss.h).
//
// Equation: push_i = sum_j w_j 1{different} 1{cos_ij > threshold} x_j;  hinge = sum_ij w_i w_j 1{different} [cos_ij - threshold]_+;
//           grad_i = w_i (push_i - v_q(i)),  loss = hinge/2 + sum_q (W_q^2 - |v_q|^2)/2.
// A task owns the rows of both blocks of its pair. Cosines live in registers, slopes in a tile of kTileRows rows in the
// L2 cache; products accumulate in registers, loss values in double. Loads, products and stores are in T.
// Deterministic: the schedule fixes the order of every sum. Micro-tiles inside one instance vanish (closed form), tiles
// whose bounds keep every pair below the threshold too; the second product runs only over micro-tiles that hold an
// active pair.
#include "../launch/pairwise_loss.h"

#include "../math/pairwise_term.h"
#include "bfloat16_tiles.h"
#include "bounds.h"

namespace rpe {
namespace RPE_SIMD {
namespace {

// Activity is noted per cell of kOutputGroup rows x kCell columns: whole panels, and whole groups of outputs.
template <class T>
constexpr int64_t kCell = kPanel<T> < 24 ? 24 : kPanel<T>;

// What the push sums: the weighted rows themselves, or their bfloat16 copies. Slopes are 0 or 1.
template <class T>
struct FullProducts {
  using Values = Tile<T>;
  RPE_FORMULA Operand<T> weighted(const PairwiseLoss<T>& p) { return {p.weighted_rows, nullptr, p.stride, p.dim}; }
};

#if defined(__AVX512BF16__)
struct HalfProducts {
  using Values = HalfTile;
  RPE_FORMULA HalfRows weighted(const PairwiseLoss<float>& p) { return p.half_weighted; }
};
#endif

template <class T, class Values = Tile<T>>
struct Scratch {
  using Label = typename PairwiseLoss<T>::Label;
  static constexpr int64_t kGroups = kTileRows / kOutputGroup;
  static constexpr int64_t kCells = kMaxColumns / kCell<T>;
  Values slope;
  bool active[kGroups][kCells];
  Label low[kCells], high[kCells];        // labels of the columns
  bool idle[kCells];                      // all their weights are zero
  bool below[kMaxColumns / kRowQuantum];  // no pair of this tile's rows and that chunk is active
};

template <class T>
void prepare(const PairwiseLoss<T>& p, int64_t index) {
  using Label = typename PairwiseLoss<T>::Label;
  const Block& block = p.blocks[index];
  const Block* first = &block;
  while (first > p.blocks && first[-1].image == block.image) --first;
  const int64_t base = p.instance[first->source];
  T* rows = p.rows + block.row * p.stride;
  T* weighted = p.weighted_rows + block.row * p.stride;
  T* push = p.push + block.row * p.stride;
  for (int64_t i = 0; i < block.rows; ++i) {
    const bool valid = i < block.valid;
    const T weight = valid ? p.weight[block.source + i] : T(0);
    p.weights[block.row + i] = weight;
    p.labels[block.row + i] = valid ? Label(p.instance[block.source + i] - base) : Label(-1);
    const T* point = p.points + (block.source + i) * p.dim;
    for (int64_t d = 0; d < p.stride; ++d) {
      const T value = valid && d < p.dim ? point[d] : T(0);
      rows[i * p.stride + d] = value;
      weighted[i * p.stride + d] = weight * value;
      push[i * p.stride + d] = T(0);
    }
  }
  if constexpr (sizeof(T) == sizeof(float)) {
    if (p.half) pack_half_partners(weighted, block.rows, block.row, p.half_weighted);
  }
  pack_panels(rows, block.rows, p.stride, p.dim, p.panels + block.row * p.dim);
  bound_chunks<T>(block, p.rows, nullptr, p.stride, p.centers, p.chunks);
  p.block_hinge[index] = 0;
}

template <class T>
RPE_FORMULA void label_range(const typename PairwiseLoss<T>::Label* labels, int64_t count,
                             typename PairwiseLoss<T>::Label& low, typename PairwiseLoss<T>::Label& high) {
  low = high = labels[0];
  for (int64_t i = 1; i < count; ++i) {
    low = labels[i] < low ? labels[i] : low;
    high = labels[i] > high ? labels[i] : high;
  }
}

template <class T>
RPE_FORMULA bool all_weights_zero(const T* weights, int64_t count) {
  bool any = false;
  for (int64_t i = 0; i < count; ++i) any |= weights[i] != T(0);
  return !any;
}

// Slopes of one micro-tile to rows i and columns j of a tile, its weighted excess to `hinge`. Returns whether any pair is
// active. kLabels: the tile may hold pairs of one instance, which the hinge does not see.
template <class T, bool kLabels, class Values>
RPE_KERNEL bool slope_micro_tile(const PairwiseLoss<T>& p, int64_t row, int64_t column, Values& slope, int64_t i,
                                 int64_t j, double* hinge) {
  using S = Simd<T>;
  using V = typename S::Vector;
  using Labels = typename S::Labels;
  V cosine[S::kRows][S::kVectors];
  clear<T>(cosine);
  dot_micro<T>(p.rows + row * p.stride, p.stride, p.panels + column * p.dim, p.dim, cosine);
  const V bound = broadcast<V>(p.threshold), one = broadcast<V>(T(1)), zero = V{};
  V total = zero, active = zero;
  RPE_UNROLL
  for (int v = 0; v < S::kVectors; ++v) {
    V column_total = zero;
    RPE_UNROLL
    for (int r = 0; r < S::kRows; ++r) {
      V excess = hinge_excess(cosine[r][v], bound);
      if (kLabels) {
        const Labels own = broadcast<Labels>(p.labels[row + r]);
        excess = own != load<Labels>(p.labels + column + v * kLanes<T>) ? excess : zero;
      }
      cosine[r][v] = hinge_slope(excess, one);
      active = maximum(excess, active);
      column_total = fma(excess, broadcast<V>(p.weights[row + r]), column_total);
    }
    total = fma(column_total, load<V>(p.weights + column + v * kLanes<T>), total);
  }
  store_micro(slope, i, j, cosine);
  const bool any = any_nonzero(active);
  if (!any) return false;
  T lane[kLanes<T>];
  store(lane, total);
  for (int l = 0; l < kLanes<T>; ++l) hinge[l] += double(lane[l]);
  return true;
}

// Slopes and hinge of kTileRows rows against all columns of the other block.
template <class T, class Values>
RPE_KERNEL bool slope_tile(const PairwiseLoss<T>& p, int64_t row, const Block& columns, Scratch<T, Values>& scratch,
                           double* hinge) {
  using S = Simd<T>;
  const Chunks<T> chunks = {p.chunks, p.centers, p.panels, p.stride, p.dim};
  bool all = true;
  for (int64_t j = 0; j < columns.rows; j += kRowQuantum) {
    bool& below = scratch.below[j / kRowQuantum];
    below = all_below(chunks, row / kRowQuantum, chunks, (columns.row + j) / kRowQuantum, p.threshold);
    all = all && below;
  }
  if (all) return false;
  bool any = false;
  for (int64_t i = 0; i < kTileRows; i += kOutputGroup) {
    typename PairwiseLoss<T>::Label low, high;
    label_range<T>(p.labels + row + i, kOutputGroup, low, high);
    const bool idle = all_weights_zero(p.weights + row + i, kOutputGroup);
    for (int64_t cell = 0; cell < columns.rows / kCell<T>; ++cell) {
      bool& active = scratch.active[i / kOutputGroup][cell];
      active = false;
      const bool one_instance = low == high && scratch.low[cell] == low && scratch.high[cell] == low;
      if (idle || scratch.idle[cell] || one_instance || scratch.below[cell * kCell<T> / kRowQuantum]) continue;
      const bool disjoint = high < scratch.low[cell] || scratch.high[cell] < low;
      for (int64_t r = i; r < i + kOutputGroup; r += S::kRows) {
        for (int64_t j = cell * kCell<T>; j < (cell + 1) * kCell<T>; j += kPanel<T>) {
          const auto slope_micro = disjoint ? slope_micro_tile<T, false, Values> : slope_micro_tile<T, true, Values>;
          active |= slope_micro(p, row + r, columns.row + j, scratch.slope, r, j, hinge);
        }
      }
      any |= active;
    }
  }
  return any;
}

// push_i += sum_j slope_ij w_j x_j, over runs of active cells.
template <class T, class Values, class Rows>
RPE_FORMULA void push_rows(const PairwiseLoss<T>& p, int64_t row, const Block& columns,
                           const Scratch<T, Values>& scratch, const Rows& weighted) {
  const int64_t cells = columns.rows / kCell<T>;
  for (int64_t i = 0; i < kTileRows; i += kOutputGroup) {
    const bool* active = scratch.active[i / kOutputGroup];
    for (int64_t begin = 0, end; begin < cells; begin = end) {
      end = begin + 1;
      if (!active[begin]) continue;
      while (end < cells && active[end]) ++end;
      const int64_t j = begin * kCell<T>;
      accumulate_group<true>(scratch.slope, i, j, (end - begin) * kCell<T>, weighted, columns.row + j,
                             p.push + (row + i) * p.stride);
    }
  }
}

// push_j += sum_i slope_ij w_i x_i, over runs of active cells.
template <class T, class Values, class Rows>
RPE_FORMULA void push_columns(const PairwiseLoss<T>& p, int64_t row, const Block& columns,
                              const Scratch<T, Values>& scratch, const Rows& weighted) {
  constexpr int64_t groups = Scratch<T, Values>::kGroups;
  for (int64_t cell = 0; cell < columns.rows / kCell<T>; ++cell) {
    for (int64_t begin = 0, end; begin < groups; begin = end) {
      end = begin + 1;
      if (!scratch.active[begin][cell]) continue;
      while (end < groups && scratch.active[end][cell]) ++end;
      const int64_t i = begin * kOutputGroup, j = cell * kCell<T>;
      accumulate_columns(scratch.slope, i, (end - begin) * kOutputGroup, j, kCell<T>, weighted, row + i,
                         p.push + (columns.row + j) * p.stride);
    }
  }
}

template <class T, class Products>
void pair(const PairwiseLoss<T>& p, BlockPair blocks, void* memory) {
  auto& scratch = *static_cast<Scratch<T, typename Products::Values>*>(memory);
  const auto weighted = Products::weighted(p);
  const Block& rows = p.blocks[blocks.row_block];
  const Block& columns = p.blocks[blocks.column_block];
  const bool diagonal = blocks.row_block == blocks.column_block;
  for (int64_t cell = 0; cell < columns.rows / kCell<T>; ++cell) {
    const int64_t column = columns.row + cell * kCell<T>;
    label_range<T>(p.labels + column, kCell<T>, scratch.low[cell], scratch.high[cell]);
    scratch.idle[cell] = all_weights_zero(p.weights + column, kCell<T>);
  }
  double hinge[kLanes<T>] = {};
  for (int64_t i = 0; i < rows.rows; i += kTileRows) {
    const bool any = slope_tile<T>(p, rows.row + i, columns, scratch, hinge);
    if (!any || !p.with_gradient) continue;
    push_rows(p, rows.row + i, columns, scratch, weighted);
    if (!diagonal) push_columns(p, rows.row + i, columns, scratch, weighted);
  }
  double total = 0;
  for (int l = 0; l < kLanes<T>; ++l) total += hinge[l];
  p.block_hinge[blocks.row_block] += diagonal ? total : 2 * total;
}

// Closed form of the same-instance part, and the sum over the image's blocks.
template <class T>
void finish(const PairwiseLoss<T>& p, int64_t image, int64_t first_block, int64_t last_block) {
  double value = 0;
  for (int64_t b = first_block; b < last_block; ++b) value += 0.5 * p.block_hinge[b];
  const int64_t begin = first_block < last_block ? p.blocks[first_block].row : 0;
  const int64_t source = first_block < last_block ? p.blocks[first_block].source : 0;
  int64_t count = 0;
  for (int64_t b = first_block; b < last_block; ++b) count += p.blocks[b].valid;
  // Rows of one image are contiguous in padded space too: only its last block is filled up.
  constexpr int64_t kChunk = 64;
  for (int64_t first = 0, last; first < count; first = last) {
    last = first + 1;
    while (last < count && p.instance[source + last] == p.instance[source + first]) ++last;
    double weight_sum = 0, squared = 0;
    for (int64_t i = first; i < last; ++i) weight_sum += double(p.weights[begin + i]);
    for (int64_t chunk = 0; chunk < p.dim; chunk += kChunk) {
      const int64_t width = p.dim - chunk < kChunk ? p.dim - chunk : kChunk;
      double sum[kChunk] = {};
      for (int64_t i = first; i < last; ++i) {
        const T* row = p.rows + (begin + i) * p.stride + chunk;
        const double weight = double(p.weights[begin + i]);
        for (int64_t d = 0; d < width; ++d) sum[d] += weight * double(row[d]);
      }
      for (int64_t d = 0; d < width; ++d) squared += sum[d] * sum[d];
      if (!p.with_gradient) continue;
      for (int64_t i = first; i < last; ++i) {
        const T weight = p.weights[begin + i];
        const T* push = p.push + (begin + i) * p.stride + chunk;
        T* gradient = p.gradient + (source + i) * p.dim + chunk;
        for (int64_t d = 0; d < width; ++d) gradient[d] = weight * T(double(push[d]) - sum[d]);
      }
    }
    value += pull_value(weight_sum, squared);
  }
  p.loss[image] = T(value);
}

}  // namespace

#define RPE_TABLE(T, HALF_PAIR) \
  {prepare<T>, pair<T, FullProducts<T>>, HALF_PAIR, finish<T>, int64_t(sizeof(Scratch<T>))}
extern const PairwiseLossKernels<float> pairwise_loss_float32 = RPE_TABLE(float, RPE_HALF_PAIR);
extern const PairwiseLossKernels<double> pairwise_loss_float64 = RPE_TABLE(double, nullptr);
#undef RPE_TABLE

}  // namespace RPE_SIMD
}  // namespace rpe
