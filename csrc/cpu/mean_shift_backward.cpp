// Mean-shift backward kernels of one SIMD variant (math/sphere_step.h, launch/mean_shift.h).
//
// Equation, with h_i = eta g_i, e_i = h_i.M_i, S_ij = P_ij (h_i.y_j - e_i):
//   R_i = sum_j S_ij y_j;  C_j = sum_i (P_ij h_i + kappa S_ij x_i);  dL/db_j = sum_i S_ij;  dL/dkappa = sum_i x_i.R_i.
// `pair` (blurring, fixed route) owns both blocks. P_ij = K_ij m_j f_i with f = 1/density, K symmetric, so with H = f h,
// E = f e:  T_ij = S_ij + S_ji = K_ij ( H_i.(m_j x_j) + (m_i x_i).H_j - m_j E_i - m_i E_j )  is symmetric too, and
//   grad_i = (1 - eta) g_i + m_i (K H)_i + kappa (T X)_i;  dL/db_j = m_j (x_j.(K H)_j - (K E)_j);
//   dL/dkappa = sum_ij T_ij (cos_ij - 1) / 2.
// `rectangle` owns a block of points and a block of sources and forms P and S themselves. sum_j S_ij is 0 but for the
// rounding of e_i; what is left of it, rho_i, is taken out again: R_i - rho_i M_i.
// Tiles (kTileRows rows) live in the L2 cache; products accumulate in registers in T, scalars in double.
// Deterministic: the schedule fixes the order of every sum.
#include "../math/sphere_step.h"
#include "mean_shift.h"

namespace rpe {
namespace RPE_SIMD {
namespace {

template <class T, class Values = Tile<T>>
struct Scratch {
  Values weights, slopes;
  typename Simd<T>::Vector row_sums[kTileRows];
};

template <class T>
void prologue(const MeanShift<T>& p, int64_t index) {
  const Block& block = p.point_blocks[index];
  const Route& route = p.routes[block.image];
  const bool symmetric = p.blurring && route.fixed, half = symmetric && p.half;
  double grad_eta = 0;
  for (int64_t i = 0; i < block.rows; ++i) {
    const int64_t row = block.row + i, in = block.source + i;
    T* slope = p.slope_rows + row * p.stride;
    for (int64_t d = 0; d < p.stride; ++d) slope[d] = T(0);
    p.slope_offset[row] = T(0);
    p.row_slopes[row] = 0;
    if (i >= block.valid) continue;
    const T* mean = p.saved_mean + in * p.dim;
    T* grad_point = p.grad_points + in * p.dim;
    const T log_density = p.saved_log_density[in];
    const bool has_mass = log_density != -T(__builtin_inf());
    const double along =
        sphere_step_gradient(p.grad_moved + in * p.dim, p.points + in * p.dim, mean, p.eta, p.dim, grad_point);
    if (!has_mass) continue;
    grad_eta += along;
    // On the fixed route the density is known again; the running route recomputes it with its own reference.
    if (route.fixed) p.density[row] = __builtin_exp(double(log_density) - route.bias);
    const T inverse = symmetric ? T(1.0 / p.density[row]) : T(1);
    T offset = 0;
    for (int64_t d = 0; d < p.dim; ++d) {
      const T h = p.eta * grad_point[d];
      slope[d] = half ? bfloat16_rounded(inverse * h) : inverse * h;
      // The order and rounding of the tile's dot products: where the mean is one source, S is exactly 0.
      offset = fma(half ? slope[d] : h, mean[d], offset);
      grad_point[d] *= T(1) - p.eta;
    }
    p.slope_offset[row] = half ? offset : inverse * offset;
  }
  p.block_grad_eta[index] = grad_eta;
  p.block_grad_kappa[index] = 0;
  if (half)
    pack_half(p.slope_rows, block, p.dim, p.half_slopes);
  else if (symmetric)
    pack_panels(p.slope_rows + block.row * p.stride, block.rows, p.stride, p.dim, p.slope_panels + block.row * p.dim);
}

template <class T>
void clear_sources(const MeanShift<T>& p, int64_t index) {
  const Block& block = p.source_blocks[index];
  for (int64_t i = block.row * p.stride; i < (block.row + block.rows) * p.stride; ++i) {
    p.weighted_sums[i] = T(0);
    p.slope_sums[i] = T(0);
  }
  for (int64_t row = block.row; row < block.row + block.rows; ++row) p.offset_sums[row] = 0;
  if (p.mass_panels != p.source_panels)
    pack_panels(p.mass_rows + block.row * p.stride, block.rows, p.stride, p.dim, p.mass_panels + block.row * p.dim);
}

// Lane by lane, in double.
template <class T>
RPE_FORMULA void add_lanes(typename Simd<T>::Vector value, double* sums) {
  T lane[kLanes<T>];
  store(lane, value);
  for (int l = 0; l < kLanes<T>; ++l) sums[l] += double(lane[l]);
}

// K and T of kTileRows rows against a run of columns. The sum of T, times 1 and what was taken off the cosines, is added to
// `totals`, lane by lane.
template <class T, class Products>
RPE_KERNEL void symmetric_tiles(const MeanShift<T>& p, int64_t row, const Block& columns, ColumnRun run,
                                Scratch<T, typename Products::Values>& scratch, double* totals) {
  using S = Simd<T>;
  using V = typename S::Vector;
  const auto points = Products::points(p);
  const auto masses = Products::masses(p);
  const auto slopes = Products::slopes(p);
  const V scale = broadcast<V>(T(double(p.kappa) * kLog2E));
  V acc[S::kRows][S::kVectors];
  for (int64_t j = run.first; j < run.first + run.count; j += kPanel<T>) {
    const int64_t column = columns.row + j;
    for (int64_t i = 0; i < kTileRows; i += S::kRows) {
      const int64_t own = row + i;
      clear<T>(acc);
      dot_micro(points, own, points, column, acc);
      RPE_UNROLL
      for (int r = 0; r < S::kRows; ++r) {
        const V row_shift = Products::kHalf ? scale + scale * broadcast<V>(p.half_excess[own + r]) : scale;
        RPE_UNROLL
        for (int v = 0; v < S::kVectors; ++v) {
          V exponent = fma(acc[r][v], scale, -row_shift);
          if (Products::kHalf) exponent = fma(load<V>(p.half_excess + column + v * kLanes<T>), -scale, exponent);
          acc[r][v] = exp2(exponent);
        }
      }
      store_micro(scratch.weights, i, j, acc);
      clear<T>(acc);
      dot_micro(slopes, own, masses, column, acc);
      dot_micro(masses, own, slopes, column, acc);
      V total = V{};
      RPE_UNROLL
      for (int v = 0; v < S::kVectors; ++v) {
        const V column_mass = load<V>(p.mass + column + v * kLanes<T>);
        const V column_offset = load<V>(p.slope_offset + column + v * kLanes<T>);
        RPE_UNROLL
        for (int r = 0; r < S::kRows; ++r) {
          V slope = fma(-column_mass, broadcast<V>(p.slope_offset[own + r]), acc[r][v]);
          slope = fma(-column_offset, broadcast<V>(p.mass[own + r]), slope);
          slope = slope * load_vector(scratch.weights, i + r, j + v * kLanes<T>);
          acc[r][v] = slope;
          if (!Products::kHalf) total = total + slope;
        }
      }
      store_micro(scratch.slopes, i, j, acc);
      // Of the slopes as they were rounded: dL/dkappa is what is left of them when the sums with the rows are taken off.
      RPE_UNROLL
      for (int v = 0; v < S::kVectors && Products::kHalf; ++v) {
        const V column_excess = load<V>(p.half_excess + column + v * kLanes<T>);
        RPE_UNROLL
        for (int r = 0; r < S::kRows; ++r) {
          const V slope = load_vector(scratch.slopes, i + r, j + v * kLanes<T>);
          total = total + fma(slope, column_excess + broadcast<V>(p.half_excess[own + r]), slope);
        }
      }
      add_lanes<T>(total, totals);
    }
  }
}

// (K E)_i += sum_j K_ij E_j and (K E)_j += sum_i K_ij E_i.
template <class T, class Values>
RPE_KERNEL void sum_offsets(const MeanShift<T>& p, int64_t row, const Block& columns, ColumnRun run, bool diagonal,
                            const Values& weights) {
  using V = typename Simd<T>::Vector;
  for (int64_t i = 0; i < kTileRows; ++i) {
    V sum = V{};
    for (int64_t j = run.first; j < run.first + run.count; j += kLanes<T>)
      sum = fma(load_vector(weights, i, j), load<V>(p.slope_offset + columns.row + j), sum);
    p.offset_sums[row + i] += lane_sum(sum);
  }
  for (int64_t j = run.first; j < run.first + run.count && !diagonal; j += kLanes<T>) {
    V sum = V{};
    for (int64_t i = 0; i < kTileRows; ++i)
      sum = fma(load_vector(weights, i, j), broadcast<V>(p.slope_offset[row + i]), sum);
    add_lanes<T>(sum, p.offset_sums + columns.row + j);
  }
}

template <class T, class Products>
void pair(const MeanShift<T>& p, BlockPair blocks, void* memory) {
  auto& scratch = *static_cast<Scratch<T, typename Products::Values>*>(memory);
  const auto points = Products::points(p);
  const auto slopes = Products::slopes(p);
  const Block& rows = p.point_blocks[blocks.row_block];
  const Block& columns = p.point_blocks[blocks.column_block];
  const bool diagonal = blocks.row_block == blocks.column_block;
  double totals[kLanes<T>] = {};
  for (int64_t i = 0; i < rows.rows; i += kTileRows) {
    const int64_t row = rows.row + i, own = row * p.stride;
    ColumnRuns runs;
    near_columns<T, true>(p, row, columns, runs);
    for (const ColumnRun& run : runs) {
      const int64_t column = columns.row + run.first, other = column * p.stride;
      symmetric_tiles<T, Products>(p, row, columns, run, scratch, totals);
      if (p.with_grad_weight) sum_offsets<T>(p, row, columns, run, diagonal, scratch.weights);
      accumulate_rows(scratch.weights, kTileRows, run.first, run.count, slopes, column, p.weighted_sums + own);
      accumulate_rows(scratch.slopes, kTileRows, run.first, run.count, points, column, p.slope_sums + own);
      if (diagonal) continue;
      accumulate_columns(scratch.weights, 0, kTileRows, run.first, run.count, slopes, row, p.weighted_sums + other);
      accumulate_columns(scratch.slopes, 0, kTileRows, run.first, run.count, points, row, p.slope_sums + other);
    }
  }
  double total = 0;
  for (int l = 0; l < kLanes<T>; ++l) total += totals[l];
  p.block_grad_kappa[blocks.row_block] -= diagonal ? 0.5 * total : total;
}

// P and S of kTileRows rows against a run of columns, and the sums of S along both sides.
template <class T>
RPE_KERNEL void rectangle_tiles(const MeanShift<T>& p, int64_t row, const Block& columns, ColumnRun run, bool fixed,
                                Scratch<T>& scratch) {
  using S = Simd<T>;
  using V = typename S::Vector;
  const V scale = broadcast<V>(logit_scale(p.kappa)), ceiling = broadcast<V>(logit_ceiling<T>(fixed));
  const Operand<T> points = {p.point_rows, nullptr, p.stride, p.dim};
  const Operand<T> slopes = {p.slope_rows, nullptr, p.stride, p.dim};
  const Operand<T> sources = {p.source_rows, p.source_panels, p.stride, p.dim};
  V acc[S::kRows][S::kVectors];
  for (int64_t j = run.first; j < run.first + run.count; j += kPanel<T>) {
    const int64_t column = columns.row + j;
    V column_sum[S::kVectors];
    RPE_UNROLL
    for (int v = 0; v < S::kVectors; ++v) column_sum[v] = V{};
    for (int64_t i = 0; i < kTileRows; i += S::kRows) {
      const int64_t own = row + i;
      clear<T>(acc);
      dot_micro(points, own, sources, column, acc);
      RPE_UNROLL
      for (int r = 0; r < S::kRows; ++r) {
        // A row without mass keeps P = 0 with a harmless reference.
        const bool present = p.density[own + r] != 0.0;
        const V inverse = broadcast<V>(present ? T(1.0 / p.density[own + r]) : T(0));
        const V reference = broadcast<V>(present ? p.reference[own + r] : T(1));
        const V reference_bias = broadcast<V>(present ? p.reference_bias[own + r] : T(0));
        RPE_UNROLL
        for (int v = 0; v < S::kVectors; ++v) {
          const V bias = load<V>(p.bias + column + v * kLanes<T>);
          acc[r][v] = inverse * relative_weight(acc[r][v], bias, scale, reference, reference_bias, ceiling);
        }
      }
      store_micro(scratch.weights, i, j, acc);
      clear<T>(acc);
      dot_micro(slopes, own, sources, column, acc);
      RPE_UNROLL
      for (int r = 0; r < S::kRows; ++r) {
        const V offset = broadcast<V>(p.slope_offset[own + r]);
        V row_sum = scratch.row_sums[i + r];
        RPE_UNROLL
        for (int v = 0; v < S::kVectors; ++v) {
          acc[r][v] = (acc[r][v] - offset) * load_vector(scratch.weights, i + r, j + v * kLanes<T>);
          column_sum[v] = column_sum[v] + acc[r][v];
          row_sum = row_sum + acc[r][v];
        }
        scratch.row_sums[i + r] = row_sum;
      }
      store_micro(scratch.slopes, i, j, acc);
    }
    T lane[kPanel<T>];
    RPE_UNROLL
    for (int v = 0; v < S::kVectors; ++v) store(lane + v * kLanes<T>, column_sum[v]);
    for (int64_t l = 0; l < kPanel<T>; ++l) p.offset_sums[column + l] += double(lane[l]);
  }
}

template <class T>
void rectangle(const MeanShift<T>& p, BlockPair blocks, void* memory) {
  Scratch<T>& scratch = *static_cast<Scratch<T>*>(memory);
  const Operand<T> points = {p.point_rows, nullptr, p.stride, p.dim};
  const Operand<T> slopes = {p.slope_rows, nullptr, p.stride, p.dim};
  const Operand<T> sources = {p.source_rows, nullptr, p.stride, p.dim};
  const Block& rows = p.point_blocks[blocks.row_block];
  const Block& columns = p.source_blocks[blocks.column_block];
  const bool fixed = p.routes[rows.image].fixed;
  for (int64_t i = 0; i < rows.rows; i += kTileRows) {
    const int64_t row = rows.row + i;
    ColumnRuns runs;
    near_columns<T, false>(p, row, columns, runs);
    if (runs.count == 0) continue;
    for (int64_t r = 0; r < kTileRows; ++r) scratch.row_sums[r] = typename Simd<T>::Vector{};
    for (const ColumnRun& run : runs) {
      const int64_t column = columns.row + run.first, other = column * p.stride;
      rectangle_tiles<T>(p, row, columns, run, fixed, scratch);
      accumulate_rows(scratch.slopes, kTileRows, run.first, run.count, sources, column, p.sums + row * p.stride);
      accumulate_columns(scratch.weights, 0, kTileRows, run.first, run.count, slopes, row, p.weighted_sums + other);
      accumulate_columns(scratch.slopes, 0, kTileRows, run.first, run.count, points, row, p.slope_sums + other);
    }
    for (int64_t r = 0; r < kTileRows; ++r) p.row_slopes[row + r] += lane_sum(scratch.row_sums[r]);
  }
}

template <class T>
void finish_points(const MeanShift<T>& p, int64_t index) {
  const Block& block = p.point_blocks[index];
  const bool symmetric = p.blurring && p.routes[block.image].fixed, half = symmetric && p.half;
  double grad_kappa = 0;
  for (int64_t i = 0; i < block.valid; ++i) {
    const int64_t row = block.row + i;
    const T* point = p.point_rows + row * p.stride;
    const T* mean = p.saved_mean + (block.source + i) * p.dim;
    T* gradient = p.grad_points + (block.source + i) * p.dim;
    const T* slope_sum = (symmetric ? p.slope_sums : p.sums) + row * p.stride;
    const double excess = symmetric ? 0.0 : p.row_slopes[row];
    double along = 0;
    for (int64_t d = 0; d < p.dim; ++d) {
      const double slope = double(slope_sum[d]) - excess * double(mean[d]);
      along += double(half ? bfloat16_rounded(point[d]) : point[d]) * slope;
      gradient[d] += p.kappa * T(slope);
    }
    grad_kappa += symmetric ? 0.5 * along : along;
    if (!p.blurring) continue;
    const T mass = symmetric ? p.mass[row] : T(1);
    for (int64_t d = 0; d < p.dim; ++d) {
      gradient[d] += mass * p.weighted_sums[row * p.stride + d];
      if (!symmetric) gradient[d] += p.kappa * p.slope_sums[row * p.stride + d];
    }
  }
  p.block_grad_kappa[index] += grad_kappa;
}

template <class T>
void finish_sources(const MeanShift<T>& p, int64_t index) {
  const Block& block = p.source_blocks[index];
  const bool symmetric = p.blurring && p.routes[block.image].fixed;
  for (int64_t i = 0; i < block.valid; ++i) {
    const int64_t row = block.row + i, out = block.source + i;
    const T* weighted_sum = p.weighted_sums + row * p.stride;
    if (p.grad_sources) {
      for (int64_t d = 0; d < p.dim; ++d)
        p.grad_sources[out * p.dim + d] = weighted_sum[d] + p.kappa * p.slope_sums[row * p.stride + d];
    }
    if (!p.grad_log_weight) continue;
    double gradient = p.offset_sums[row];
    if (symmetric) {
      double along = 0;
      for (int64_t d = 0; d < p.dim; ++d) along += double(p.source_rows[row * p.stride + d]) * double(weighted_sum[d]);
      gradient = double(p.mass[row]) * (along - gradient);
    }
    p.grad_log_weight[out] = T(gradient);
  }
}

}  // namespace

#define RPE_TABLE(T, HALF_PAIR)                                             \
  {clear_sources<T>, prologue<T>,      pair<T, FullProducts<T>>, HALF_PAIR, \
   rectangle<T>,     finish_points<T>, finish_sources<T>,        int64_t(sizeof(Scratch<T>))}
extern const MeanShiftBackwardKernels<float> mean_shift_backward_float32 = RPE_TABLE(float, RPE_HALF_PAIR);
extern const MeanShiftBackwardKernels<double> mean_shift_backward_float64 = RPE_TABLE(double, nullptr);
#undef RPE_TABLE

}  // namespace RPE_SIMD
}  // namespace rpe
