// Mean shift: tensors to launch/mean_shift.h, phases on PyTorch's threads.
#include "../launch/mean_shift.h"

#include <ATen/ops/empty.h>

#include "../launch/select.h"
#include "check.h"
#include "operators.h"
#include "parallel.h"

namespace rpe {

namespace {

double scalar(const at::Tensor& value, const char* name) {
  TORCH_CHECK(value.device().is_cpu() && value.numel() == 1, name, " must hold one number on the CPU");
  if (value.scalar_type() == at::kDouble) return *value.const_data_ptr<double>();
  TORCH_CHECK(value.scalar_type() == at::kFloat, name, " must be float32 or float64, got ", value.scalar_type());
  return double(*value.const_data_ptr<float>());
}

// One problem of either direction: inputs, plans, routes and workspace.
template <class T>
struct Session {
  MeanShift<T> problem{};
  BlockPlan points, sources;
  std::vector<Route> routes;
  Buffer buffer{0};
  const MeanShiftKernels<T>& kernels = mean_shift_kernels<T>();

  Session(const at::Tensor& point_rows, const std::optional<at::Tensor>& source_rows,
          const std::optional<at::Tensor>& log_weight, const at::Tensor& kappa, const at::Tensor& eta,
          const at::Tensor& point_offsets, const at::Tensor& source_offsets, bool backward) {
    const at::Tensor& source = source_rows ? *source_rows : point_rows;
    const double exact_kappa = scalar(kappa, "kappa");
    problem.blurring = !source_rows;
    problem.points = point_rows.const_data_ptr<T>();
    problem.sources = source.const_data_ptr<T>();
    problem.log_weight = log_weight ? log_weight->const_data_ptr<T>() : nullptr;
    problem.kappa = T(exact_kappa);
    problem.eta = T(scalar(eta, "eta"));
    problem.dim = point_rows.size(1);
    points = make_plan(point_offsets.const_data_ptr<int64_t>(), point_offsets.numel() - 1, choose_block_rows(point_rows.size(0)));
    if (problem.blurring) {
      sources = points;
    } else {
      sources = make_plan(source_offsets.const_data_ptr<int64_t>(), source_offsets.numel() - 1, choose_block_rows(source.size(0)));
    }
    problem.point_blocks = points.blocks.data();
    problem.source_blocks = sources.blocks.data();
    std::vector<RowSurvey> point_surveys(points.num_blocks()), source_surveys(sources.num_blocks());
    run_tasks(sources.num_blocks(), [&](int64_t b) {
      kernels.survey(problem.sources, problem.log_weight, exact_kappa, problem.dim, sources.blocks[b], source_surveys[b]);
    });
    if (!problem.blurring) {
      run_tasks(points.num_blocks(), [&](int64_t b) {
        kernels.survey(problem.points, nullptr, exact_kappa, problem.dim, points.blocks[b], point_surveys[b]);
      });
    }
    routes = plan_routes(points, sources, point_surveys.data(), source_surveys.data(), exact_kappa, problem.blurring,
                         route_limits<T>(problem.dim));
    problem.routes = routes.data();
    MeanShiftShape shape{points.padded_rows(), sources.padded_rows(), problem.log_weight != nullptr, backward, false, false};
    for (const Route& route : routes) (route.fixed ? shape.any_fixed : shape.any_running) = true;
    buffer = Buffer(bind_workspace(problem, shape, nullptr));
    bind_workspace(problem, shape, buffer.data());
    run_tasks(points.num_blocks(), [&](int64_t b) { kernels.pack_points(problem, b); });
    run_tasks(sources.num_blocks(), [&](int64_t b) { kernels.pack_sources(problem, b); });
  }

  bool symmetric(int64_t image) const { return problem.blurring && routes[image].fixed; }

  // Every point block whose image is not symmetric walks over its sources.
  void walk_rows(bool fixed_too, bool with_mean) {
    const ScratchPool scratch(kernels.scratch_bytes);
    run_tasks(points.num_blocks(), [&](int64_t b) {
      const int64_t image = points.blocks[b].image;
      if (symmetric(image) || (routes[image].fixed && !fixed_too)) return;
      kernels.rows(problem, b, sources.first_block[image], sources.first_block[image + 1], with_mean, scratch.mine());
    });
  }

  void forward() {
    const ScratchPool scratch(kernels.scratch_bytes);
    if (problem.blurring) {
      run_symmetric(points, [&](BlockPair pair) {
        if (symmetric(points.blocks[pair.row_block].image)) kernels.pair(problem, pair, scratch.mine());
      });
    }
    walk_rows(true, true);
    run_tasks(points.num_blocks(), [&](int64_t b) { kernels.finish(problem, b); });
  }

  void backward(double& grad_kappa, double& grad_eta) {
    const MeanShiftBackwardKernels<T>& back = mean_shift_backward_kernels<T>();
    std::vector<double> block_kappa(points.num_blocks()), block_eta(points.num_blocks());
    problem.block_grad_kappa = block_kappa.data();
    problem.block_grad_eta = block_eta.data();
    run_tasks(sources.num_blocks(), [&](int64_t b) { back.clear_sources(problem, b); });
    run_tasks(points.num_blocks(), [&](int64_t b) { back.prologue(problem, b); });
    walk_rows(false, false);
    const ScratchPool scratch(back.scratch_bytes);
    if (problem.blurring) {
      run_symmetric(points, [&](BlockPair pair) {
        if (symmetric(points.blocks[pair.row_block].image)) back.pair(problem, pair, scratch.mine());
      });
    }
    run_rectangular(points, sources, [&](BlockPair pair) {
      if (!symmetric(points.blocks[pair.row_block].image)) back.rectangle(problem, pair, scratch.mine());
    });
    run_tasks(points.num_blocks(), [&](int64_t b) { back.finish_points(problem, b); });
    run_tasks(sources.num_blocks(), [&](int64_t b) { back.finish_sources(problem, b); });
    for (double value : block_kappa) grad_kappa += value;
    for (double value : block_eta) grad_eta += value;
  }
};

void check_problem(const at::Tensor& points, const std::optional<at::Tensor>& sources,
                   const std::optional<at::Tensor>& log_weight, const at::Tensor& point_offsets,
                   const at::Tensor& source_offsets) {
  check_rows(points, "points");
  const at::Tensor& rows = sources ? *sources : points;
  check_like(rows, points.scalar_type(), {rows.size(0), points.size(1)}, "sources");
  if (log_weight) check_like(*log_weight, points.scalar_type(), {rows.size(0)}, "log_weight");
  const int64_t images = check_offsets(point_offsets, points.size(0), "point_offsets");
  TORCH_CHECK(check_offsets(source_offsets, rows.size(0), "source_offsets") == images,
              "point_offsets and source_offsets must name the same number of images");
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor> mean_shift_forward(const at::Tensor& points,
                                                                  const std::optional<at::Tensor>& sources,
                                                                  const std::optional<at::Tensor>& log_weight,
                                                                  const at::Tensor& kappa, const at::Tensor& eta,
                                                                  const at::Tensor& point_offsets,
                                                                  const at::Tensor& source_offsets) {
  check_problem(points, sources, log_weight, point_offsets, source_offsets);
  at::Tensor moved = at::empty(points.sizes(), points.options());
  at::Tensor mean = at::empty(points.sizes(), points.options());
  at::Tensor log_density = at::empty({points.size(0)}, points.options());
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    Session<T> session(points, sources, log_weight, kappa, eta, point_offsets, source_offsets, false);
    session.problem.moved = moved.mutable_data_ptr<T>();
    session.problem.mean = mean.mutable_data_ptr<T>();
    session.problem.log_density = log_density.mutable_data_ptr<T>();
    session.forward();
  };
  points.scalar_type() == at::kFloat ? run(float{}) : run(double{});
  return {moved, mean, log_density};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> mean_shift_backward(
    const at::Tensor& grad_moved, const at::Tensor& points, const std::optional<at::Tensor>& sources,
    const std::optional<at::Tensor>& log_weight, const at::Tensor& kappa, const at::Tensor& eta,
    const at::Tensor& point_offsets, const at::Tensor& source_offsets, const at::Tensor& mean, const at::Tensor& log_density,
    bool with_grad_weight) {
  check_problem(points, sources, log_weight, point_offsets, source_offsets);
  check_like(grad_moved, points.scalar_type(), points.sizes(), "grad_moved");
  check_like(mean, points.scalar_type(), points.sizes(), "mean");
  check_like(log_density, points.scalar_type(), {points.size(0)}, "log_density");
  const int64_t num_sources = sources ? sources->size(0) : points.size(0);
  at::Tensor grad_points = at::empty(points.sizes(), points.options());
  at::Tensor grad_sources = at::empty({sources ? num_sources : 0, points.size(1)}, points.options());
  at::Tensor grad_log_weight = at::empty({with_grad_weight ? num_sources : 0}, points.options());
  at::Tensor grad_kappa = at::empty({}, points.options()), grad_eta = at::empty({}, points.options());
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    Session<T> session(points, sources, log_weight, kappa, eta, point_offsets, source_offsets, true);
    session.problem.grad_moved = grad_moved.const_data_ptr<T>();
    session.problem.saved_mean = mean.const_data_ptr<T>();
    session.problem.saved_log_density = log_density.const_data_ptr<T>();
    session.problem.with_grad_weight = with_grad_weight;
    session.problem.grad_points = grad_points.mutable_data_ptr<T>();
    session.problem.grad_sources = sources ? grad_sources.mutable_data_ptr<T>() : nullptr;
    session.problem.grad_log_weight = with_grad_weight ? grad_log_weight.mutable_data_ptr<T>() : nullptr;
    double kappa_sum = 0, eta_sum = 0;
    session.backward(kappa_sum, eta_sum);
    *grad_kappa.mutable_data_ptr<T>() = T(kappa_sum);
    *grad_eta.mutable_data_ptr<T>() = T(eta_sum);
  };
  points.scalar_type() == at::kFloat ? run(float{}) : run(double{});
  return {grad_points, grad_sources, grad_log_weight, grad_kappa, grad_eta};
}

}  // namespace rpe
