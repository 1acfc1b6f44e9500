// Mean shift: choice of route and workspace layout (see mean_shift.h).
#include "mean_shift.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rpe {

namespace {

// Largest log of a kernel value above the reference: rows a little longer than 1 are still on the fixed route.
constexpr double kHeadroom = 20.0;

RowSurvey combine(const BlockPlan& plan, const RowSurvey* surveys, int64_t image) {
  const double infinity = std::numeric_limits<double>::infinity();
  RowSurvey all{0.0, -infinity, infinity};
  for (int64_t b = plan.first_block[image]; b < plan.first_block[image + 1]; ++b) {
    const bool finite = surveys[b].largest_squared <= std::numeric_limits<double>::max();
    all.largest_squared = finite ? std::max(all.largest_squared, surveys[b].largest_squared) : infinity;
    all.largest_bias = std::max(all.largest_bias, surveys[b].largest_bias);
    all.smallest_self = std::min(all.smallest_self, surveys[b].smallest_self);
    if (!finite) break;
  }
  return all;
}

}  // namespace

std::vector<Route> plan_routes(const BlockPlan& points, const BlockPlan& sources, const RowSurvey* point_surveys,
                               const RowSurvey* source_surveys, double kappa, bool blurring, RouteLimits limits) {
  std::vector<Route> routes;
  for (int64_t image = 0; image < points.num_images(); ++image) {
    const RowSurvey source = combine(sources, source_surveys, image);
    const RowSurvey point = blurring ? source : combine(points, point_surveys, image);
    const double product = std::sqrt(point.largest_squared * source.largest_squared) + limits.rounding;
    // Never above exp(headroom): cos_ij <= |x_i| |y_j|.
    const bool bounded = kappa * (product - 1.0) <= kHeadroom;
    // Never below exp(-limit): either no pair at all is that far, and the heaviest source has mass 1, or (blurring)
    // every row has its own kernel value in its density.
    const bool near = kappa * (product + 1.0) <= limits.log_density;
    const bool own = blurring && source.smallest_self - source.largest_bias >= -limits.log_density;
    const bool has_mass = std::isfinite(source.largest_bias);
    routes.push_back({bounded && has_mass && (near || own), has_mass ? source.largest_bias : 0.0});
  }
  return routes;
}

template <class T>
size_t bind_workspace(MeanShift<T>& p, const MeanShiftShape& shape, void* memory) {
  Workspace workspace(memory);
  p.stride = padded_dim<T>(p.dim);
  const int64_t point_values = shape.points * p.stride, source_values = shape.sources * p.stride;
  const bool symmetric = p.blurring && shape.any_fixed;
  p.point_rows = workspace.take<T>(point_values);
  p.source_rows = p.blurring ? p.point_rows : workspace.take<T>(source_values);
  p.source_panels = workspace.take<T>(shape.sources * p.dim);
  p.mass_rows = symmetric && shape.weighted ? workspace.take<T>(source_values) : p.source_rows;
  p.mass = workspace.take<T>(shape.sources);
  p.bias = workspace.take<T>(shape.sources);
  p.density = workspace.take<double>(shape.points);
  p.reference = workspace.take<T>(shape.points);
  p.reference_bias = workspace.take<T>(shape.points);
  const bool rectangle = !p.blurring || shape.any_running;
  p.sums = !shape.backward || rectangle ? workspace.take<T>(point_values) : nullptr;
  if (shape.backward) {
    p.slope_rows = workspace.take<T>(point_values);
    p.slope_offset = workspace.take<T>(shape.points);
    p.slope_panels = symmetric ? workspace.take<T>(shape.points * p.dim) : nullptr;
    p.mass_panels = symmetric && shape.weighted ? workspace.take<T>(shape.sources * p.dim) : p.source_panels;
    p.weighted_sums = workspace.take<T>(source_values);
    p.slope_sums = workspace.take<T>(source_values);
    p.row_slopes = workspace.take<double>(shape.points);
    p.offset_sums = workspace.take<double>(shape.sources);
  }
  return workspace.bytes();
}

template size_t bind_workspace<float>(MeanShift<float>&, const MeanShiftShape&, void*);
template size_t bind_workspace<double>(MeanShift<double>&, const MeanShiftShape&, void*);

}  // namespace rpe
