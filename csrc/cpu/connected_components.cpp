// Connected components of one SIMD variant (launch/connected_components.h).
//
// Computes the components of the graph with an edge where cos_ij >= threshold. A task owns no output: it joins trees of a
// shared union-find forest by compare-and-swap, the larger root under the smaller. Cosines live in registers; chunks that
// are too far apart for an edge are passed over, a tile whose rows and columns already share one root is not computed, and
// only edges between different roots leave the vector code.
// Deterministic: cos_ij has the same bits as cos_ji wherever it is computed, so the graph is fixed, and the root of a
// finished component is its smallest row whatever the order of the joins.
#include "../launch/connected_components.h"

#include "bounds.h"
#include "tiles.h"

namespace rpe {
namespace RPE_SIMD {
namespace {

template <class T>
struct Scratch {
  using Index = typename ConnectedComponents<T>::Index;
  Index row_root[kMaxBlockRows], column_root[kMaxBlockRows];
};

template <class T>
void prepare(const ConnectedComponents<T>& p, int64_t index) {
  using Index = typename ConnectedComponents<T>::Index;
  const Block& block = p.blocks[index];
  T* rows = p.rows + block.row * p.stride;
  for (int64_t i = 0; i < block.rows; ++i) {
    const T* point = p.points + (block.source + i) * p.dim;
    for (int64_t d = 0; d < p.stride; ++d)
      rows[i * p.stride + d] = i < block.valid ? (d < p.dim ? point[d] : T(0)) : T(__builtin_nan(""));
    p.parent[block.row + i] = Index(block.row + i);
  }
  pack_panels(rows, block.rows, p.stride, p.dim, p.panels + block.row * p.dim);
  bound_chunks<T>(block, p.rows, nullptr, p.stride, p.centers, p.chunks);
}

// Root of a row. Halves the path on the way; a lost race only leaves the path longer.
template <class Index>
RPE_FORMULA Index find_root(Index* parent, Index row) {
  for (;;) {
    Index up = __atomic_load_n(parent + row, __ATOMIC_RELAXED);
    if (up == row) return row;
    const Index top = __atomic_load_n(parent + up, __ATOMIC_RELAXED);
    if (top == up) return up;
    __atomic_compare_exchange_n(parent + row, &up, top, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    row = top;
  }
}

template <class Index>
RPE_FORMULA Index join(Index* parent, Index one, Index other) {
  for (;;) {
    one = find_root(parent, one);
    other = find_root(parent, other);
    if (one == other) return one;
    const Index low = one < other ? one : other, high = one < other ? other : one;
    Index expected = high;
    if (__atomic_compare_exchange_n(parent + high, &expected, low, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
      return low;
  }
}

template <class Index>
RPE_KERNEL void read_roots(Index* parent, int64_t first, int64_t count, Index* roots) {
  for (int64_t i = 0; i < count; ++i) roots[i] = find_root(parent, Index(first + i));
}

template <class Index>
RPE_FORMULA bool one_root(const Index* rows, int64_t num_rows, const Index* columns, int64_t num_columns) {
  Index differs = 0;
  for (int64_t i = 0; i < num_rows; ++i) differs |= rows[i] ^ columns[0];
  for (int64_t j = 0; j < num_columns; ++j) differs |= columns[j] ^ columns[0];
  return differs == 0;
}

// Joins every edge of one micro-tile whose ends have different roots.
template <class T>
RPE_KERNEL void join_edges(const ConnectedComponents<T>& p, const T* cosine, int64_t row, int64_t column,
                           Scratch<T>& scratch, int64_t i, int64_t j) {
  using Index = typename ConnectedComponents<T>::Index;
  for (int64_t r = 0; r < Simd<T>::kRows; ++r) {
    for (int64_t l = 0; l < kPanel<T>; ++l) {
      if (!(cosine[r * kPanel<T> + l] >= p.threshold)) continue;
      if (scratch.row_root[i + r] == scratch.column_root[j + l]) continue;
      const Index root = join(p.parent, Index(row + r), Index(column + l));
      scratch.row_root[i + r] = root;
      scratch.column_root[j + l] = root;
    }
  }
}

// Edges between the chunks that begin at `first_row` and `first_column` of two blocks.
template <class T>
RPE_KERNEL void join_chunks(const ConnectedComponents<T>& p, const Block& rows, const Block& columns, int64_t first_row,
                            int64_t first_column, Scratch<T>& scratch) {
  using S = Simd<T>;
  using V = typename S::Vector;
  using Labels = typename S::Labels;
  const V bound = broadcast<V>(p.threshold);
  for (int64_t j = first_column; j < first_column + kRowQuantum; j += kPanel<T>) {
    for (int64_t i = first_row; i < first_row + kRowQuantum; i += S::kRows) {
      if (one_root(scratch.row_root + i, S::kRows, scratch.column_root + j, kPanel<T>)) continue;
      V cosine[S::kRows][S::kVectors];
      clear<T>(cosine);
      dot_micro<T>(p.rows + (rows.row + i) * p.stride, p.stride, p.panels + (columns.row + j) * p.dim, p.dim, cosine);
      V edges = V{};
      RPE_UNROLL
      for (int r = 0; r < S::kRows; ++r) {
        const Labels own = broadcast<Labels>(scratch.row_root[i + r]);
        RPE_UNROLL
        for (int v = 0; v < S::kVectors; ++v) {
          const Labels root = load<Labels>(scratch.column_root + j + v * kLanes<T>);
          const V one = broadcast<V>(T(1)), zero = V{};
          const V near = cosine[r][v] >= bound ? one : zero;
          edges = edges + (own != root ? near : zero);
        }
      }
      if (!any_nonzero(edges)) continue;
      T values[S::kRows * kPanel<T>];
      RPE_UNROLL
      for (int r = 0; r < S::kRows; ++r) {
        RPE_UNROLL
        for (int v = 0; v < S::kVectors; ++v) store(values + r * kPanel<T> + v * kLanes<T>, cosine[r][v]);
      }
      join_edges<T>(p, values, rows.row + i, columns.row + j, scratch, i, j);
      // Roots read before the joins may be stale: refresh what the next micro-tiles compare.
      read_roots(p.parent, rows.row + i, S::kRows, scratch.row_root + i);
      read_roots(p.parent, columns.row + j, kPanel<T>, scratch.column_root + j);
    }
  }
}

template <class T>
void pair(const ConnectedComponents<T>& p, BlockPair blocks, void* memory) {
  Scratch<T>& scratch = *static_cast<Scratch<T>*>(memory);
  const Block& rows = p.blocks[blocks.row_block];
  const Block& columns = p.blocks[blocks.column_block];
  const Chunks<T> chunks = {p.chunks, p.centers, p.panels, p.stride, p.dim};
  // The bounds are at least as large as any product: strictly below the threshold there is no edge.
  const T below = p.threshold - kBoundSlack<T>;
  read_roots(p.parent, rows.row, rows.rows, scratch.row_root);
  read_roots(p.parent, columns.row, columns.rows, scratch.column_root);
  for (int64_t j = 0; j < columns.rows; j += kRowQuantum) {
    for (int64_t i = 0; i < rows.rows; i += kRowQuantum) {
      if (one_root(scratch.row_root + i, kRowQuantum, scratch.column_root + j, kRowQuantum)) continue;
      if (all_below(chunks, (rows.row + i) / kRowQuantum, chunks, (columns.row + j) / kRowQuantum, below)) continue;
      join_chunks<T>(p, rows, columns, i, j, scratch);
    }
  }
}

// 0..C-1 in order of first appearance: a root is the first row of its component.
template <class T>
void number(const ConnectedComponents<T>& p, int64_t first_block, int64_t last_block) {
  if (first_block == last_block) return;
  const int64_t row = p.blocks[first_block].row, out = p.blocks[first_block].source;
  int64_t count = 0, next = 0;
  for (int64_t b = first_block; b < last_block; ++b) count += p.blocks[b].valid;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t root = int64_t(find_root(p.parent, typename ConnectedComponents<T>::Index(row + i))) - row;
    p.labels[out + i] = root == i ? next++ : p.labels[out + root];
  }
}

}  // namespace

extern const ConnectedComponentsKernels<float> connected_components_float32 = {prepare<float>, pair<float>,
                                                                               number<float>, sizeof(Scratch<float>)};
extern const ConnectedComponentsKernels<double> connected_components_float64 = {
    prepare<double>, pair<double>, number<double>, sizeof(Scratch<double>)};

}  // namespace RPE_SIMD
}  // namespace rpe
