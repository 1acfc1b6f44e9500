// How near two chunks of rows can be, at most and at least: what lets kernels pass over tiles.
//
// A chunk is kRowQuantum consecutive rows of one block, with centre c and radius r = max |x - c|. For x in chunk a and y in
// chunk b, with u = x - c_a and v = y - c_b,
//   x.y = x.c_b + y.c_a - c_a.c_b + u.v,   |u.v| <= r_a r_b,
// so the extremes of x.c_b over chunk a and of y.c_a over chunk b, two products of a row with a centre, bound all
// products of the chunks up to second order in the radii. |u.v| is bounded alone where that already says enough.
// The bounds hold for rows of any length, in any order; they are tight where neighbours in memory are neighbours on the
// sphere (rpe_ops/backends/spatial_order.py). A slack covers rounding. A NaN compares false with everything, and every comparison
// is written so that false keeps the tile; a row with one gives its chunk such a centre.
#pragma once

#include "../launch/chunk.h"
#include "../math/sphere_step.h"
#include "tiles.h"

namespace rpe {
namespace RPE_SIMD {

template <class T>
constexpr T kBoundSlack = sizeof(T) == 4 ? T(2e-5) : T(1e-12);

template <class T>
RPE_FORMULA T row_product(const T* one, const T* other, int64_t stride) {
  using H = typename Simd<T>::Half;
  H sum = H{};
  for (int64_t d = 0; d < stride; d += VectorTraits<H>::kLanes) sum = fma(load<H>(one + d), load<H>(other + d), sum);
  return T(lane_sum(sum));
}

// Centre, radius and so on of `count` > 0 rows.
template <class T>
RPE_KERNEL void bound_chunk(const T* rows, const T* mass, int64_t count, int64_t stride, T* center, Chunk<T>& chunk) {
  for (int64_t d = 0; d < stride; ++d) center[d] = T(0);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t d = 0; d < stride; ++d) center[d] += rows[i * stride + d];
  }
  for (int64_t d = 0; d < stride; ++d) center[d] /= T(count);
  T farthest = 0, longest = 0, shortest = T(__builtin_inf());
  chunk.mass = 0;
  for (int64_t i = 0; i < count; ++i) {
    T distance = 0, length = 0;
    for (int64_t d = 0; d < stride; ++d) {
      const T value = rows[i * stride + d], difference = value - center[d];
      distance += difference * difference;
      length += value * value;
    }
    farthest = distance <= farthest ? farthest : distance;
    longest = length <= longest ? longest : length;
    shortest = length >= shortest ? shortest : length;
    chunk.mass += mass ? double(mass[i]) : 1.0;
  }
  chunk.radius = square_root(farthest);
  chunk.shortest_squared = shortest;
  chunk.slack = kBoundSlack<T> * (T(1) + longest);
  chunk.center_squared = row_product(center, center, stride);
}

// Of all chunks of a block; arrays of rows and chunks begin at row 0 of padded row space.
template <class T>
RPE_FORMULA void bound_chunks(const Block& block, const T* rows, const T* mass, int64_t stride, T* centers,
                              Chunk<T>* chunks) {
  for (int64_t i = 0; i < block.valid; i += kRowQuantum) {
    const int64_t row = block.row + i, chunk = row / kRowQuantum, rest = block.valid - i;
    bound_chunk(rows + row * stride, mass ? mass + row : nullptr, rest < kRowQuantum ? rest : kRowQuantum, stride,
                centers + chunk * stride, chunks[chunk]);
  }
}

template <class T>
struct Range {
  T largest, smallest;
};

// Extremes of the products of a chunk's rows with a centre. Rows that fill up the last chunk of an image count as zero
// rows, which widens its range at most.
template <class T>
RPE_KERNEL Range<T> project(const T* panels, const T* center, int64_t dim) {
  using S = Simd<T>;
  using V = typename S::Vector;
  const V infinity = broadcast<V>(T(__builtin_inf()));
  V largest = -infinity, smallest = infinity;
  for (int64_t first = 0; first < kRowQuantum; first += kPanel<T>) {
    const T* panel = panels + first * dim;
    V product[S::kVectors];
    RPE_UNROLL
    for (int v = 0; v < S::kVectors; ++v) product[v] = V{};
    for (int64_t d = 0; d < dim; ++d) {
      const V own = broadcast<V>(center[d]);
      RPE_UNROLL
      for (int v = 0; v < S::kVectors; ++v)
        product[v] = fma(own, load<V>(panel + d * kPanel<T> + v * kLanes<T>), product[v]);
    }
    RPE_UNROLL
    for (int v = 0; v < S::kVectors; ++v) {
      // A NaN stays or is lost to the rows after it; its image comes out as NaN all the same.
      largest = maximum(product[v], largest);
      smallest = -maximum(-product[v], -smallest);
    }
  }
  T most[kLanes<T>], least[kLanes<T>];
  store(most, largest);
  store(least, smallest);
  for (int l = 1; l < kLanes<T>; ++l) {
    most[0] = most[l] <= most[0] ? most[0] : most[l];
    least[0] = least[l] >= least[0] ? least[0] : least[l];
  }
  return {most[0], least[0]};
}

// One side of a problem: its chunks, as bounds see them.
template <class T>
struct Chunks {
  const Chunk<T>* chunk;
  const T *centers, *panels;  // [chunks, stride], [chunks * kRowQuantum / panel][dim][panel]
  int64_t stride, dim;
  const T* center(int64_t index) const { return centers + index * stride; }
};

// What the centres c, d of two chunks say of their products. `first_order` bounds u.d + c.v + u.v, `second_order` u.v.
template <class T>
struct Coarse {
  T product, first_order, second_order;
};
template <class T>
RPE_FORMULA Coarse<T> coarse(const Chunks<T>& a, int64_t i, const Chunks<T>& b, int64_t j) {
  const Chunk<T>&one = a.chunk[i], &other = b.chunk[j];
  const T second_order = one.radius * other.radius + one.slack + other.slack;
  const T first_order =
      one.radius * square_root(other.center_squared) + other.radius * square_root(one.center_squared) + second_order;
  return {row_product(a.center(i), b.center(j), a.stride), first_order, second_order};
}

// What every row's product with the other chunk's centre says of them: all lie in [smallest, largest].
template <class T>
RPE_FORMULA Range<T> fine(const Chunks<T>& a, int64_t i, const Chunks<T>& b, int64_t j, const Coarse<T>& known) {
  const Range<T> own = project(a.panels + i * kRowQuantum * a.dim, b.center(j), a.dim);
  const Range<T> partner = project(b.panels + j * kRowQuantum * b.dim, a.center(i), b.dim);
  return {own.largest + partner.largest - known.product + known.second_order,
          own.smallest + partner.smallest - known.product - known.second_order};
}

// Whether the bounds say that every product between two chunks is at most `bound`. The second ones are asked where the
// rows' products with centres may bring what those of the centres do not: they are at least these, and at most.
template <class T>
RPE_FORMULA bool all_below(const Chunks<T>& a, int64_t i, const Chunks<T>& b, int64_t j, T bound) {
  const Coarse<T> known = coarse(a, i, b, j);
  if (known.product + known.first_order <= bound) return true;
  if (!(known.product + known.second_order <= bound)) return false;
  return fine(a, i, b, j, known).largest <= bound;
}

}  // namespace RPE_SIMD
}  // namespace rpe
