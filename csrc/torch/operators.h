// The native operators, as library.cpp registers them.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace rpe {

std::tuple<at::Tensor, at::Tensor> pairwise_loss_forward(const at::Tensor& points, const at::Tensor& instance,
                                                         const at::Tensor& weight, const at::Tensor& offsets,
                                                         double margin, bool with_gradient, bool half);

std::tuple<at::Tensor, at::Tensor, at::Tensor> mean_shift_forward(
    const at::Tensor& points, const std::optional<at::Tensor>& sources, const std::optional<at::Tensor>& log_weight,
    const at::Tensor& kappa, const at::Tensor& eta, const at::Tensor& point_offsets, const at::Tensor& source_offsets,
    bool half, double tol);

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> mean_shift_backward(
    const at::Tensor& grad_moved, const at::Tensor& points, const std::optional<at::Tensor>& sources,
    const std::optional<at::Tensor>& log_weight, const at::Tensor& kappa, const at::Tensor& eta,
    const at::Tensor& point_offsets, const at::Tensor& source_offsets, const at::Tensor& mean,
    const at::Tensor& log_density, bool with_grad_weight, bool half, double tol);

at::Tensor connected_components(const at::Tensor& points, const at::Tensor& offsets, double threshold);

at::Tensor farthest_points(const at::Tensor& points, const at::Tensor& offsets, int64_t num_seeds,
                           const at::Tensor& first, double covered);
at::Tensor nearest_rows(const at::Tensor& points, const at::Tensor& rows, const at::Tensor& point_offsets,
                        const at::Tensor& row_offsets);

}  // namespace rpe
