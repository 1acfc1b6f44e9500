// Mean shift: choice of route, workspace and phases (see mean_shift.h).
#include "mean_shift.h"

#include "select.h"
#include "workspace.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace rpe {

namespace {

// Largest log of a kernel value above the reference: rows a little longer than 1 are still on the fixed route.
constexpr double kHeadroom = 20.0;

// Of bfloat16 copies, whose differences err by 2^-9 or so: the kernel is as wide as 1/sqrt(kappa), and gradients err by the
// quotient.
constexpr double kLargestHalfKappa = 128.0;

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

namespace {

struct Shape {
  int64_t points, sources, partials;  // padded rows
  bool weighted, backward, any_running, any_fixed, bounded, streamed;
};

// Partial results take at most this share of the room of the sources; so many runs keep a large machine busy.
constexpr int64_t kPartialShare = 4, kMaxRuns = 64;

// Of the image's sources, by shape alone: the order of sums must not depend on threads.
std::vector<SourceRun> plan_runs(const BlockPlan& points, const BlockPlan& sources) {
  std::vector<SourceRun> runs;
  int64_t partial_row = 0;
  for (int64_t image = 0; image < points.num_images(); ++image) {
    const auto rows_of = [&](const BlockPlan& plan) { return plan.first_row[image + 1] - plan.first_row[image]; };
    const int64_t rows = rows_of(points), first = sources.first_block[image];
    const int64_t blocks = sources.first_block[image + 1] - first;
    if (rows == 0 || blocks == 0) continue;
    const int64_t room = std::max<int64_t>(rows_of(sources) / (kPartialShare * rows), 1);
    const int64_t count = std::min({room, kMaxRuns, blocks});
    for (int64_t run = 0; run < count; ++run) {
      const int64_t begin = first + blocks * run / count, end = first + blocks * (run + 1) / count;
      runs.push_back({image, begin, end, partial_row - points.first_row[image]});
      partial_row += rows;
    }
  }
  return runs;
}

template <class T>
size_t bind_workspace(MeanShift<T>& p, const Shape& shape, void* memory) {
  Workspace workspace(memory);
  p.stride = padded_dim<T>(p.dim);
  const int64_t point_values = shape.points * p.stride, source_values = shape.sources * p.stride;
  const bool symmetric = p.blurring && shape.any_fixed;
  p.point_rows = workspace.take<T>(point_values);
  if (shape.streamed) {
    p.partial_sums = workspace.take<T>(shape.partials * p.stride);
    p.partial_density = workspace.take<double>(shape.partials);
    p.partial_reference = workspace.take<T>(shape.partials);
    p.partial_reference_bias = workspace.take<T>(shape.partials);
  } else {
    p.source_rows = p.blurring ? p.point_rows : workspace.take<T>(source_values);
    p.source_panels = workspace.take<T>(shape.sources * p.dim);
    p.mass_rows = symmetric && shape.weighted ? workspace.take<T>(source_values) : p.source_rows;
    p.mass = workspace.take<T>(shape.sources);
    p.bias = workspace.take<T>(shape.sources);
  }
  p.density = workspace.take<double>(shape.points);
  p.reference = workspace.take<T>(shape.points);
  p.reference_bias = workspace.take<T>(shape.points);
  if (shape.bounded) {
    const int64_t point_chunks = shape.points / kRowQuantum, source_chunks = shape.sources / kRowQuantum;
    p.point_panels = p.blurring ? p.source_panels : workspace.take<T>(shape.points * p.dim);
    p.point_centers = workspace.take<T>(point_chunks * p.stride);
    p.source_centers = p.blurring ? p.point_centers : workspace.take<T>(source_chunks * p.stride);
    p.point_chunks = workspace.take<Chunk<T>>(point_chunks);
    p.source_chunks = p.blurring ? p.point_chunks : workspace.take<Chunk<T>>(source_chunks);
    p.least_cosine = workspace.take<T>(point_chunks);
  }
  if (p.half) {
    p.half_points = take_half_rows(workspace, shape.points, p.stride, p.dim);
    p.half_masses = shape.weighted ? take_half_rows(workspace, shape.points, p.stride, p.dim) : p.half_points;
    p.half_excess = workspace.take<T>(shape.points);
    if (shape.backward) p.half_slopes = take_half_rows(workspace, shape.points, p.stride, p.dim);
  }
  const bool rectangle = !p.blurring || shape.any_running;
  p.sums = !shape.backward || rectangle ? workspace.take<T>(point_values) : nullptr;
  if (shape.backward) {
    p.slope_rows = workspace.take<T>(point_values);
    p.slope_offset = workspace.take<T>(shape.points);
    p.slope_panels = symmetric && !p.half ? workspace.take<T>(shape.points * p.dim) : nullptr;
    const bool masses = symmetric && shape.weighted && !p.half;
    p.mass_panels = masses ? workspace.take<T>(shape.sources * p.dim) : p.source_panels;
    p.weighted_sums = workspace.take<T>(source_values);
    p.slope_sums = workspace.take<T>(source_values);
    p.row_slopes = workspace.take<double>(shape.points);
    p.offset_sums = workspace.take<double>(shape.sources);
  }
  return workspace.bytes();
}

template <class T>
RouteLimits route_limits(int64_t dim) {
  const double rounding = std::numeric_limits<T>::epsilon() * double(dim + 4);
  // 44: the kappa of 20 that seeds usually have is on the fixed route wherever they are.
  return {sizeof(T) == 4 ? 44.0 : 300.0, rounding};
}

// One problem of either direction: plans, routes and workspace.
template <class T>
struct Session {
  MeanShift<T> problem;
  TaskPool& pool;
  BlockPlan points, sources;
  std::vector<Route> routes;
  std::vector<SourceRun> runs;  // empty unless streamed
  bool streamed;
  std::shared_ptr<void> memory;
  const MeanShiftKernels<T>& kernels = mean_shift_kernels<T>();

  Session(const MeanShift<T>& given, double kappa, double eta, const int64_t* point_offsets,
          const int64_t* source_offsets, int64_t num_images, bool backward, TaskPool& task_pool)
      : problem(given), pool(task_pool) {
    problem.kappa = T(kappa);
    problem.eta = T(eta);
    points = make_plan(point_offsets, num_images, choose_block_rows(point_offsets[num_images]));
    sources = problem.blurring ? points
                               : make_plan(source_offsets, num_images, choose_block_rows(source_offsets[num_images]));
    problem.point_blocks = points.blocks.data();
    problem.source_blocks = sources.blocks.data();
    choose_routes(kappa);
    const bool bounded = problem.tol > 0.0;
    streamed = !problem.blurring && !backward && !bounded &&
               kPartialShare * point_offsets[num_images] <= source_offsets[num_images];
    if (streamed) runs = plan_runs(points, sources);
    int64_t partials = 0;
    for (const SourceRun& run : runs)
      partials += points.first_row[size_t(run.image) + 1] - points.first_row[size_t(run.image)];
    Shape shape{points.padded_rows(),
                sources.padded_rows(),
                partials,
                problem.log_weight != nullptr,
                backward,
                false,
                false,
                bounded,
                streamed};
    for (const Route& route : routes) (route.fixed ? shape.any_fixed : shape.any_running) = true;
    problem.half = problem.half && problem.blurring && shape.any_fixed && kappa <= kLargestHalfKappa &&
                   kernels.half_pair && simd_half_products();
    memory = pool.allocate(bind_workspace(problem, shape, nullptr));
    bind_workspace(problem, shape, memory.get());
    pool.run(points.num_blocks(), [&](int64_t b) { kernels.pack_points(problem, b); });
    if (!streamed) pool.run(sources.num_blocks(), [&](int64_t b) { kernels.pack_sources(problem, b); });
    if (bounded) find_reaches();
  }

  // Bounds cost about a tenth of a step: an image has them where a sample says that they leave out more.
  void find_reaches() {
    constexpr double kLeastShare = 0.1;
    std::vector<double> share(points.blocks.size(), 0.0);
    for_sources_of_points([&](int64_t b, int64_t first, int64_t last) {
      if (is_sample(b)) share[size_t(b)] = kernels.share_out_of_reach(problem, b, first, last);
    });
    std::vector<double> left_out(routes.size(), 0.0);
    for (size_t b = 0; b < share.size(); ++b) left_out[size_t(points.blocks[b].image)] += share[b];
    for_sources_of_points([&](int64_t b, int64_t first, int64_t last) {
      const size_t image = size_t(points.blocks[size_t(b)].image);
      if (left_out[image] >= kLeastShare * double(num_samples(image))) kernels.reach(problem, b, first, last);
    });
  }

  int64_t num_blocks(size_t image) const { return points.first_block[image + 1] - points.first_block[image]; }

  int64_t num_samples(size_t image) const {
    constexpr int64_t kBlocksPerSample = 8, kFewest = 4, kMost = 32;
    return std::min(num_blocks(image), std::clamp(num_blocks(image) / kBlocksPerSample, kFewest, kMost));
  }

  // num_samples of an image's blocks, evenly spread.
  bool is_sample(int64_t point_block) const {
    const size_t image = size_t(points.blocks[size_t(point_block)].image);
    const int64_t place = point_block - points.first_block[image];
    return (place + 1) * num_samples(image) / num_blocks(image) > place * num_samples(image) / num_blocks(image);
  }

  // task(point block, first and last source block of its image)
  template <class Task>
  void for_sources_of_points(const Task& task) {
    pool.run(points.num_blocks(), [&](int64_t b) {
      const size_t image = size_t(points.blocks[size_t(b)].image);
      task(b, sources.first_block[image], sources.first_block[image + 1]);
    });
  }

  void choose_routes(double kappa) {
    std::vector<RowSurvey> of_points(points.blocks.size()), of_sources(sources.blocks.size());
    pool.run(sources.num_blocks(), [&](int64_t b) {
      kernels.survey(problem.sources, problem.log_weight, kappa, problem.dim, sources.blocks[size_t(b)],
                     of_sources[size_t(b)]);
    });
    if (!problem.blurring) {
      pool.run(points.num_blocks(), [&](int64_t b) {
        kernels.survey(problem.points, nullptr, kappa, problem.dim, points.blocks[size_t(b)], of_points[size_t(b)]);
      });
    }
    routes = plan_routes(points, sources, of_points.data(), of_sources.data(), kappa, problem.blurring,
                         route_limits<T>(problem.dim));
    problem.routes = routes.data();
  }

  bool symmetric(int64_t point_block) const {
    return problem.blurring && routes[size_t(points.blocks[size_t(point_block)].image)].fixed;
  }

  // Every point block whose image is not symmetric walks over its sources.
  void walk_rows(bool fixed_too, bool with_mean) {
    const ScratchPool scratch(pool, kernels.scratch_bytes);
    for_sources_of_points([&](int64_t b, int64_t first, int64_t last) {
      if (symmetric(b) || (routes[size_t(points.blocks[size_t(b)].image)].fixed && !fixed_too)) return;
      kernels.rows(problem, b, first, last, with_mean, scratch.mine());
    });
  }

  void stream() {
    const ScratchPool scratch(pool, kernels.scratch_bytes + stage_bytes(problem));
    pool.run(int64_t(runs.size()), [&](int64_t r) {
      const SourceRun& run = runs[size_t(r)];
      const size_t image = size_t(run.image);
      kernels.stream(problem, run, points.first_block[image], points.first_block[image + 1], scratch.mine());
    });
    std::vector<int64_t> first_run(size_t(points.num_images()) + 1, 0);
    for (const SourceRun& run : runs) ++first_run[size_t(run.image) + 1];
    std::partial_sum(first_run.begin(), first_run.end(), first_run.begin());
    pool.run(points.num_blocks(), [&](int64_t b) {
      const size_t image = size_t(points.blocks[size_t(b)].image);
      kernels.merge(problem, b, runs.data() + first_run[image], runs.data() + first_run[image + 1]);
    });
  }

  void forward() {
    if (streamed) {
      stream();
      pool.run(points.num_blocks(), [&](int64_t b) { kernels.finish(problem, b); });
      return;
    }
    const ScratchPool scratch(pool, kernels.scratch_bytes);
    const auto multiply = problem.half ? kernels.half_pair : kernels.pair;
    run_symmetric(
        pool, points, [&](const BlockPair& pair) { return symmetric(pair.row_block); },
        [&](const BlockPair& pair) { multiply(problem, pair, scratch.mine()); });
    walk_rows(true, true);
    pool.run(points.num_blocks(), [&](int64_t b) { kernels.finish(problem, b); });
  }

  ScalarGradients backward() {
    const MeanShiftBackwardKernels<T>& back = mean_shift_backward_kernels<T>();
    std::vector<double> block_kappa(points.blocks.size()), block_eta(points.blocks.size());
    problem.block_grad_kappa = block_kappa.data();
    problem.block_grad_eta = block_eta.data();
    pool.run(sources.num_blocks(), [&](int64_t b) { back.clear_sources(problem, b); });
    pool.run(points.num_blocks(), [&](int64_t b) { back.prologue(problem, b); });
    walk_rows(false, false);
    const ScratchPool scratch(pool, back.scratch_bytes);
    const auto multiply = problem.half ? back.half_pair : back.pair;
    run_symmetric(
        pool, points, [&](const BlockPair& pair) { return symmetric(pair.row_block); },
        [&](const BlockPair& pair) { multiply(problem, pair, scratch.mine()); });
    run_rectangular(
        pool, points, sources, [&](const BlockPair& pair) { return !symmetric(pair.row_block); },
        [&](const BlockPair& pair) { back.rectangle(problem, pair, scratch.mine()); });
    pool.run(points.num_blocks(), [&](int64_t b) { back.finish_points(problem, b); });
    pool.run(sources.num_blocks(), [&](int64_t b) { back.finish_sources(problem, b); });
    ScalarGradients total{0.0, 0.0};
    for (size_t b = 0; b < points.blocks.size(); ++b) {
      total.kappa += block_kappa[b];
      total.eta += block_eta[b];
    }
    return total;
  }
};

}  // namespace

template <class T>
void run_mean_shift_forward(MeanShift<T> problem, double kappa, double eta, const int64_t* point_offsets,
                            const int64_t* source_offsets, int64_t num_images, TaskPool& pool) {
  Session<T>(problem, kappa, eta, point_offsets, source_offsets, num_images, false, pool).forward();
}

template <class T>
ScalarGradients run_mean_shift_backward(MeanShift<T> problem, double kappa, double eta, const int64_t* point_offsets,
                                        const int64_t* source_offsets, int64_t num_images, TaskPool& pool) {
  return Session<T>(problem, kappa, eta, point_offsets, source_offsets, num_images, true, pool).backward();
}

#define RPE_INSTANTIATE(T)                                                                                          \
  template void run_mean_shift_forward<T>(MeanShift<T>, double, double, const int64_t*, const int64_t*, int64_t,    \
                                          TaskPool&);                                                               \
  template ScalarGradients run_mean_shift_backward<T>(MeanShift<T>, double, double, const int64_t*, const int64_t*, \
                                                      int64_t, TaskPool&);
RPE_INSTANTIATE(float)
RPE_INSTANTIATE(double)
#undef RPE_INSTANTIATE

}  // namespace rpe
