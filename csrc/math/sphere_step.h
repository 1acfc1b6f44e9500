// Mean shift on the sphere: update of one row and its derivative. Rows are pointers to `dim` values.
// Where several lanes share a row, each passes its own features, and `sum` adds a number over the lanes.
//
//   Y = eta M + (1 - eta) x,  Z = Y/|Y| (0 where |Y| = 0)                                              (forward)
//   g = (G - (G.Z) Z)/|Y|,  h = eta g,  e = h.M,  dL/deta += g.(M - x)                                  (backward)
#pragma once

#include "portable.h"

#include <cmath>
#include <cstdint>

namespace rpe {

RPE_FORMULA float square_root(float value) {
  return sqrtf(value);
}
RPE_FORMULA double square_root(double value) {
  return sqrt(value);
}

struct WholeRow {
  template <class T>
  RPE_MEMBER_FORMULA T operator()(T value) const {
    return value;
  }
};

// moved = normalised step. `moved` may not alias the inputs.
template <class T, class Sum = WholeRow>
RPE_FORMULA void sphere_step(const T* point, const T* mean, T eta, int64_t dim, T* moved, Sum sum = {}) {
  T squared = 0;
  for (int64_t d = 0; d < dim; ++d) {
    const T step = eta * mean[d] + (T(1) - eta) * point[d];
    moved[d] = step;
    squared += step * step;
  }
  squared = sum(squared);
  const T inverse = squared > T(0) || squared != squared ? T(1) / square_root(squared) : T(0);
  for (int64_t d = 0; d < dim; ++d) moved[d] *= inverse;
}

// grad_step = g, the gradient at Y. Returns g.(M - x), the row's share of dL/deta.
template <class T, class Sum = WholeRow>
RPE_FORMULA double sphere_step_gradient(const T* grad_moved, const T* point, const T* mean, T eta, int64_t dim,
                                        T* grad_step, Sum sum = {}) {
  T squared = 0, projection = 0;
  for (int64_t d = 0; d < dim; ++d) {
    const T step = eta * mean[d] + (T(1) - eta) * point[d];
    squared += step * step;
    projection += grad_moved[d] * step;
  }
  squared = sum(squared);
  projection = sum(projection);
  const bool present = squared > T(0) || squared != squared;
  const T inverse = present ? T(1) / square_root(squared) : T(0);
  const T along = projection * inverse * inverse;
  double grad_eta = 0;
  for (int64_t d = 0; d < dim; ++d) {
    const T step = eta * mean[d] + (T(1) - eta) * point[d];
    const T g = (grad_moved[d] - along * step) * inverse;
    grad_step[d] = g;
    grad_eta += double(g) * (double(mean[d]) - double(point[d]));
  }
  return sum(grad_eta);
}

}  // namespace rpe
