// What a CUDA operator requires of its tensors. Users never see these messages: validate.py speaks to them first.
#pragma once

#include "device.h"

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <limits>

namespace rpe {
namespace cuda {

inline void check_tensor(const at::Tensor& tensor, at::ScalarType dtype, at::IntArrayRef sizes, const char* name) {
  TORCH_CHECK(tensor.device().type() == kDevice && tensor.scalar_type() == dtype && tensor.sizes() == sizes &&
                  tensor.is_contiguous(),
              name, " must be contiguous ", dtype, " ", sizes, " on the GPU, got ", tensor.scalar_type(), " ",
              tensor.sizes(), " on ", tensor.device());
}

inline void check_rows(const at::Tensor& rows, int64_t largest_dim, const char* name) {
  TORCH_CHECK(rows.dim() == 2 && rows.size(1) > 0 && rows.size(1) <= largest_dim, name,
              " must be rows [N, D], D up to ", largest_dim, ", got ", rows.sizes());
  TORCH_CHECK(rows.size(0) < std::numeric_limits<int32_t>::max() / 2, name, " has too many rows: ", rows.size(0));
  check_tensor(rows, at::kFloat, rows.sizes(), name);
}

// Number of images. What the offsets say is on the device and is not looked at.
inline int check_offsets(const at::Tensor& offsets, const char* name) {
  TORCH_CHECK(offsets.dim() == 1 && offsets.numel() > 0 && offsets.numel() < std::numeric_limits<int32_t>::max(), name,
              " must be a vector [images + 1], got ", offsets.sizes());
  check_tensor(offsets, at::kLong, offsets.sizes(), name);
  return int(offsets.numel() - 1);
}

}  // namespace cuda
}  // namespace rpe
