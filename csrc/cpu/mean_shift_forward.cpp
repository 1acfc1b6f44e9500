// Mean-shift forward kernels of one SIMD variant (math/sphere_step.h, launch/mean_shift.h).
//
// Equation: M_i = sum_j P_ij y_j, P_ij = exp(kappa (cos_ij - 1) + b_j - L_i), L_i the logsumexp of its exponents.
// `pair` owns the rows of both blocks and shares each cosine and exponential between (i, j) and (j, i); `rows` owns one
// block of points and walks over all sources; `stream` owns what all points of an image sum over a run of its sources,
// which it stages block by block, and `merge` adds the runs up in order. Tiles of kernel values (kTileRows rows) live in the L2 cache; products and
// row sums of a tile accumulate in registers in T, densities across tiles in double.
// Deterministic: the schedule fixes the order of every sum.
#include "../math/sphere_step.h"
#include "mean_shift_walk.h"

namespace rpe {
namespace RPE_SIMD {
namespace {

template <class T, class Values = Tile<T>>
struct Scratch {
  Values weights;
  typename Simd<T>::Vector row_sums[kTileRows];
};

template <class T>
RPE_FORMULA T squared_length(const T* row, int64_t dim) {
  using H = typename Simd<T>::Half;
  H sum = H{};
  int64_t d = 0;
  for (; d + VectorTraits<H>::kLanes <= dim; d += VectorTraits<H>::kLanes)
    sum = fma(load<H>(row + d), load<H>(row + d), sum);
  T squared = T(lane_sum(sum));
  for (; d < dim; ++d) squared += row[d] * row[d];
  return squared;
}

template <class T>
void survey(const T* rows, const T* log_weight, double kappa, int64_t dim, const Block& block, RowSurvey& result) {
  result = {0.0, -__builtin_inf(), __builtin_inf()};
  for (int64_t i = block.source; i < block.source + block.valid; ++i) {
    const T squared = squared_length(rows + i * dim, dim);
    const double bias = log_weight ? double(log_weight[i]) : 0.0;
    const double self = bias + kappa * (double(squared) - 1.0);
    // Negated comparisons let a NaN through, which keeps the image off the fixed route.
    if (!(double(squared) <= result.largest_squared)) result.largest_squared = double(squared);
    if (!(bias <= result.largest_bias)) result.largest_bias = bias;
    if (!(self >= result.smallest_self)) result.smallest_self = self;
    if (squared != squared || bias != bias) {
      result.largest_squared = __builtin_inf();
      return;
    }
  }
}

template <class T>
void pack_points(const MeanShift<T>& p, int64_t index) {
  const Block& block = p.point_blocks[index];
  for (int64_t i = 0; i < block.rows; ++i) {
    const int64_t row = block.row + i;
    const T* point = p.points + (block.source + i) * p.dim;
    for (int64_t d = 0; d < p.stride; ++d) {
      p.point_rows[row * p.stride + d] = i < block.valid && d < p.dim ? point[d] : T(0);
      if (p.sums) p.sums[row * p.stride + d] = T(0);
    }
    p.density[row] = 0;
    const bool fixed = p.routes[block.image].fixed;
    p.reference[row] = T(1);
    p.reference_bias[row] = fixed ? T(0) : -T(__builtin_inf());
  }
  if (!p.least_cosine) return;
  for (int64_t i = 0; i < block.rows; i += kRowQuantum)
    p.least_cosine[(block.row + i) / kRowQuantum] = -T(__builtin_inf());  // until reach says more
  if (p.blurring) return;
  pack_panels(p.point_rows + block.row * p.stride, block.rows, p.stride, p.dim, p.point_panels + block.row * p.dim);
  bound_chunks<T>(block, p.point_rows, nullptr, p.stride, p.point_centers, p.point_chunks);
}

template <class T>
void pack_sources(const MeanShift<T>& p, int64_t index) {
  const Block& block = p.source_blocks[index];
  const double largest = p.routes[block.image].bias;
  T* rows = p.source_rows + block.row * p.stride;
  for (int64_t i = 0; i < block.rows; ++i) {
    const bool valid = i < block.valid;
    const double bias = valid && p.log_weight ? double(p.log_weight[block.source + i]) - largest : 0.0;
    const T mass = valid ? T(__builtin_exp(bias)) : T(0);
    p.mass[block.row + i] = mass;
    p.bias[block.row + i] = valid ? T(bias * kLog2E) : -T(__builtin_inf());
    const T* source = p.sources + (block.source + i) * p.dim;
    for (int64_t d = 0; d < p.stride; ++d) {
      const T value = valid && d < p.dim ? source[d] : T(0);
      rows[i * p.stride + d] = value;
      if (p.mass_rows != p.source_rows) p.mass_rows[(block.row + i) * p.stride + d] = mass * value;
    }
  }
  pack_panels(rows, block.rows, p.stride, p.dim, p.source_panels + block.row * p.dim);
  if (p.least_cosine) bound_chunks<T>(block, p.source_rows, p.mass, p.stride, p.source_centers, p.source_chunks);
  if (!p.half || !p.routes[block.image].fixed) return;
  for (int64_t row = block.row; row < block.row + block.rows; ++row) {
    double excess = 0;
    for (int64_t d = 0; d < p.dim; ++d) {
      const double value = double(p.source_rows[row * p.stride + d]);
      const double copy = double(bfloat16_rounded(p.source_rows[row * p.stride + d]));
      excess += 0.5 * (copy - value) * (copy + value);
    }
    p.half_excess[row] = T(excess);
  }
  pack_half(p.source_rows, block, p.dim, p.half_points);
  if (p.mass_rows != p.source_rows) pack_half(p.mass_rows, block, p.dim, p.half_masses);
}

// Some blocks of sources, as chunks.
template <class T>
struct SourceChunks {
  Chunks<T> chunks;
  int64_t begin, end;
  double mass;
};

// Of at least one block.
template <class T>
RPE_FORMULA SourceChunks<T> source_chunks(const MeanShift<T>& p, int64_t first_source, int64_t last_source) {
  const Block& last = p.source_blocks[last_source - 1];
  SourceChunks<T> sources = {chunks_of_sources(p), p.source_blocks[first_source].row / kRowQuantum,
                             (last.row + last.rows) / kRowQuantum, 0.0};
  for (int64_t c = sources.begin; c < sources.end; ++c) sources.mass += p.source_chunks[c].mass;
  return sources;
}

// What the rows of the chunk at row i of a block can do without: every partner of relative kernel value up to
// tol L / (all mass), L a lower bound of the chunk's densities: the sum of the least values that the other chunks promise,
// the largest of those (in logarithms, should all be tiny), and when blurring a row's own term.
template <class T>
T reach_of_chunk(const MeanShift<T>& p, const Block& block, int64_t i, const SourceChunks<T>& sources) {
  const double scale = double(p.kappa) * kLog2E;
  const Chunks<T> points = chunks_of_points(p);
  const int64_t own = (block.row + i) / kRowQuantum;
  double largest = -__builtin_inf(), density = 0;
  if (p.blurring) {
    largest = __builtin_inf();
    for (int64_t r = 0; r < kRowQuantum && i + r < block.valid; ++r) {
      const double bias = double(p.bias[block.row + i + r]);
      largest = bias < largest ? bias : largest;
    }
    largest += scale * (double(p.point_chunks[own].shortest_squared - p.point_chunks[own].slack) - 1.0);
  }
  for (int64_t c = sources.begin; c < sources.end; ++c) {
    if (!(p.source_chunks[c].mass > 0.0)) continue;
    const double log_mass = __builtin_log2(p.source_chunks[c].mass);
    // Too small to matter beside the largest term.
    constexpr double kNegligible = -30.0;
    const Coarse<T> known = coarse(points, own, sources.chunks, c);
    const double at_most = scale * (double(known.product - known.second_order) - 1.0) + log_mass;
    if (at_most < largest + kNegligible) continue;
    const double exponent = scale * (double(fine(points, own, sources.chunks, c, known).smallest) - 1.0);
    if (exponent > -1000.0) density += p.source_chunks[c].mass * __builtin_exp2(exponent);
    largest = exponent + log_mass > largest ? exponent + log_mass : largest;
  }
  if (density > 0.0 && __builtin_log2(density) > largest) largest = __builtin_log2(density);
  return T(1.0 + (__builtin_log2(p.tol) + largest - __builtin_log2(sources.mass)) / scale);
}

template <class T>
void reach(const MeanShift<T>& p, int64_t point_block, int64_t first_source, int64_t last_source) {
  if (first_source == last_source) return;
  const Block& block = p.point_blocks[point_block];
  const SourceChunks<T> sources = source_chunks(p, first_source, last_source);
  for (int64_t i = 0; i < block.rows; i += kRowQuantum)
    p.least_cosine[(block.row + i) / kRowQuantum] = reach_of_chunk(p, block, i, sources);
}

template <class T>
double share_out_of_reach(const MeanShift<T>& p, int64_t point_block, int64_t first_source, int64_t last_source) {
  if (first_source == last_source) return 0.0;
  const Block& block = p.point_blocks[point_block];
  const SourceChunks<T> sources = source_chunks(p, first_source, last_source);
  const T bound = reach_of_chunk(p, block, 0, sources);
  int64_t far = 0;
  for (int64_t c = sources.begin; c < sources.end; ++c)
    far += all_below(chunks_of_points(p), block.row / kRowQuantum, sources.chunks, c, bound);
  return double(far) / double(sources.end - sources.begin);
}

// Kernel values of kTileRows rows against a run of columns, with their sums along both sides. Masses enter the sums alone.
template <class T, class Products>
RPE_KERNEL void weight_tile(const MeanShift<T>& p, int64_t row, const Block& columns, ColumnRun run, bool diagonal,
                            Scratch<T, typename Products::Values>& scratch) {
  using S = Simd<T>;
  using V = typename S::Vector;
  const auto points = Products::points(p);
  const V scale = broadcast<V>(T(double(p.kappa) * kLog2E));
  for (int64_t j = run.first; j < run.first + run.count; j += kPanel<T>) {
    V column_mass[S::kVectors], column_sum[S::kVectors], column_shift[S::kVectors];
    RPE_UNROLL
    for (int v = 0; v < S::kVectors; ++v) {
      column_mass[v] = load<V>(p.mass + columns.row + j + v * kLanes<T>);
      column_sum[v] = V{};
      if (Products::kHalf) column_shift[v] = scale * load<V>(p.half_excess + columns.row + j + v * kLanes<T>);
    }
    for (int64_t i = 0; i < kTileRows; i += S::kRows) {
      V weight[S::kRows][S::kVectors];
      clear<T>(weight);
      dot_micro(points, row + i, points, columns.row + j, weight);
      RPE_UNROLL
      for (int r = 0; r < S::kRows; ++r) {
        const V row_mass = broadcast<V>(p.mass[row + i + r]);
        const V row_shift = Products::kHalf ? scale + scale * broadcast<V>(p.half_excess[row + i + r]) : scale;
        V row_sum = scratch.row_sums[i + r];
        RPE_UNROLL
        for (int v = 0; v < S::kVectors; ++v) {
          V exponent = fma(weight[r][v], scale, -row_shift);
          if (Products::kHalf) exponent = exponent - column_shift[v];
          weight[r][v] = exp2(exponent);
          row_sum = fma(weight[r][v], column_mass[v], row_sum);
          column_sum[v] = fma(weight[r][v], row_mass, column_sum[v]);
        }
        scratch.row_sums[i + r] = row_sum;
      }
      store_micro(scratch.weights, i, j, weight);
    }
    if (diagonal) continue;
    T lane[kPanel<T>];
    RPE_UNROLL
    for (int v = 0; v < S::kVectors; ++v) store(lane + v * kLanes<T>, column_sum[v]);
    for (int64_t l = 0; l < kPanel<T>; ++l) p.density[columns.row + j + l] += double(lane[l]);
  }
}

template <class T, class Products>
void pair(const MeanShift<T>& p, BlockPair blocks, void* memory) {
  auto& scratch = *static_cast<Scratch<T, typename Products::Values>*>(memory);
  const auto masses = Products::masses(p);
  const Block& rows = p.point_blocks[blocks.row_block];
  const Block& columns = p.point_blocks[blocks.column_block];
  const bool diagonal = blocks.row_block == blocks.column_block;
  for (int64_t i = 0; i < rows.rows; i += kTileRows) {
    const int64_t row = rows.row + i;
    ColumnRuns runs;
    near_columns<T, true>(p, row, columns, runs);
    if (runs.count == 0) continue;
    for (int64_t r = 0; r < kTileRows; ++r) scratch.row_sums[r] = typename Simd<T>::Vector{};
    for (const ColumnRun& run : runs) {
      const int64_t column = columns.row + run.first;
      weight_tile<T, Products>(p, row, columns, run, diagonal, scratch);
      accumulate_rows(scratch.weights, kTileRows, run.first, run.count, masses, column, p.sums + row * p.stride);
      if (diagonal) continue;
      accumulate_columns(scratch.weights, 0, kTileRows, run.first, run.count, masses, row, p.sums + column * p.stride);
    }
    for (int64_t r = 0; r < kTileRows; ++r) p.density[row + r] += lane_sum(scratch.row_sums[r]);
  }
}

template <class T>
RPE_FORMULA Walk<T> walk_of(const MeanShift<T>& p, int64_t row) {
  return {p.point_rows + row * p.stride, p.sums + row * p.stride, p.density + row, p.reference + row,
          p.reference_bias + row};
}

template <class T>
void rows(const MeanShift<T>& p, int64_t point_block, int64_t first_source, int64_t last_source, bool with_mean,
          void* memory) {
  Scratch<T>& scratch = *static_cast<Scratch<T>*>(memory);
  const Block& block = p.point_blocks[point_block];
  const bool fixed = p.routes[block.image].fixed;
  for (int64_t s = first_source; s < last_source; ++s) {
    const Block& columns = p.source_blocks[s];
    for (int64_t i = 0; i < block.valid; i += kTileRows) {
      ColumnRuns runs;
      near_columns<T, false>(p, block.row + i, columns, runs);
      for (const ColumnRun& run : runs) {
        const int64_t column = columns.row + run.first;
        const SourceTile<T> sources = {p.source_panels + column * p.dim, p.source_rows + column * p.stride,
                                       p.bias + column, run.count};
        walk(p, walk_of(p, block.row + i), walking_rows(block, i), sources, fixed, with_mean, scratch.weights);
      }
    }
  }
}

// The walk of one row in one run.
template <class T>
RPE_FORMULA Walk<T> partial_walk(const MeanShift<T>& p, const SourceRun& run, int64_t row) {
  const int64_t at = row + run.shift;
  return {p.point_rows + row * p.stride, p.partial_sums + at * p.stride, p.partial_density + at,
          p.partial_reference + at, p.partial_reference_bias + at};
}

template <class T>
RPE_FORMULA T source_bias(const MeanShift<T>& p, const Block& block, int64_t i, double largest) {
  return p.log_weight ? T((double(p.log_weight[block.source + i]) - largest) * kLog2E) : T(0);
}

// One block of sources in scratch; full rows of full width stay where they are.
template <class T>
RPE_KERNEL SourceTile<T> stage_sources(const MeanShift<T>& p, const Block& block, T* panels, T* rows, T* bias) {
  const T* source = p.sources + block.source * p.dim;
  const double largest = p.routes[block.image].bias;
  const bool in_place = p.stride == p.dim && block.valid == block.rows;
  for (int64_t i = 0; i < block.rows; ++i) {
    const bool valid = i < block.valid;
    bias[i] = valid ? source_bias(p, block, i, largest) : -T(__builtin_inf());
    for (int64_t d = 0; !in_place && d < p.stride; ++d)
      rows[i * p.stride + d] = valid && d < p.dim ? source[i * p.dim + d] : T(0);
  }
  const T* staged = in_place ? source : rows;
  pack_panels(staged, block.rows, p.stride, p.dim, panels);
  return {panels, staged, bias, block.rows};
}

template <class T>
void stream(const MeanShift<T>& p, const SourceRun& run, int64_t first_point, int64_t last_point, void* memory) {
  Scratch<T>& scratch = *static_cast<Scratch<T>*>(memory);
  T* panels = reinterpret_cast<T*>(static_cast<char*>(memory) + sizeof(Scratch<T>));
  T *rows = panels + kMaxColumns * p.dim, *bias = rows + kMaxColumns * p.stride;
  const bool fixed = p.routes[run.image].fixed;
  for (int64_t b = first_point; b < last_point; ++b) {
    const Block& block = p.point_blocks[b];
    for (int64_t i = 0; i < block.rows; ++i) {
      const Walk<T> own = partial_walk(p, run, block.row + i);
      *own.density = 0;
      *own.reference = T(1);
      *own.reference_bias = fixed ? T(0) : -T(__builtin_inf());
      for (int64_t d = 0; d < p.stride; ++d) own.sums[d] = T(0);
    }
  }
  for (int64_t s = run.first_source; s < run.last_source; ++s) {
    const SourceTile<T> sources = stage_sources(p, p.source_blocks[s], panels, rows, bias);
    for (int64_t b = first_point; b < last_point; ++b) {
      const Block& block = p.point_blocks[b];
      for (int64_t i = 0; i < block.valid; i += kTileRows)
        walk(p, partial_walk(p, run, block.row + i), walking_rows(block, i), sources, fixed, true, scratch.weights);
    }
  }
}

template <class T>
void merge(const MeanShift<T>& p, int64_t point_block, const SourceRun* first_run, const SourceRun* last_run) {
  const Block& block = p.point_blocks[point_block];
  for (int64_t i = 0; i < block.valid; ++i) {
    const int64_t row = block.row + i;
    for (const SourceRun* run = first_run; run < last_run; ++run)
      merge_walk(p, walk_of(p, row), partial_walk(p, *run, row));
  }
}

template <class T>
void finish(const MeanShift<T>& p, int64_t index) {
  const Block& block = p.point_blocks[index];
  const double image_bias = p.routes[block.image].bias;
  for (int64_t i = 0; i < block.valid; ++i) {
    const int64_t row = block.row + i, out = block.source + i;
    const double density = p.density[row];
    const T* point = p.point_rows + row * p.stride;
    T* mean = p.mean + out * p.dim;
    if (density == 0.0) {
      p.log_density[out] = -T(__builtin_inf());
      for (int64_t d = 0; d < p.dim; ++d) mean[d] = point[d];
    } else {
      const double reference = double(p.kappa) * (double(p.reference[row]) - 1.0);
      const double value = __builtin_log(density) + reference + double(p.reference_bias[row]) / kLog2E + image_bias;
      // -inf is kept for rows without mass.
      p.log_density[out] = value < double(kLowest<T>) ? kLowest<T> : T(value);
      const T inverse = T(1.0 / density);
      for (int64_t d = 0; d < p.dim; ++d) mean[d] = p.sums[row * p.stride + d] * inverse;
    }
    sphere_step(point, mean, p.eta, p.dim, p.moved + out * p.dim);
  }
}

}  // namespace

#define RPE_TABLE(T, HALF_PAIR)               \
  {survey<T>,       pack_points<T>,           \
   pack_sources<T>, share_out_of_reach<T>,    \
   reach<T>,        pair<T, FullProducts<T>>, \
   HALF_PAIR,       rows<T>,                  \
   stream<T>,       merge<T>,                 \
   finish<T>,       int64_t(sizeof(Scratch<T>))}
extern const MeanShiftKernels<float> mean_shift_float32 = RPE_TABLE(float, RPE_HALF_PAIR);
extern const MeanShiftKernels<double> mean_shift_float64 = RPE_TABLE(double, nullptr);
#undef RPE_TABLE

}  // namespace RPE_SIMD
}  // namespace rpe
