// What a native operator requires of its tensors. Users never see these messages: validate.py speaks to them first.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>

namespace rpe {

inline void check_rows(const at::Tensor& rows, const char* name) {
  TORCH_CHECK(rows.device().is_cpu() && rows.dim() == 2 && rows.size(1) > 0 && rows.is_contiguous(), name,
              " must be contiguous rows [N, D] on the CPU, got ", rows.sizes());
  TORCH_CHECK(rows.scalar_type() == at::kFloat || rows.scalar_type() == at::kDouble, name,
              " must be float32 or float64, got ", rows.scalar_type());
}

inline void check_like(const at::Tensor& tensor, at::ScalarType dtype, at::IntArrayRef sizes, const char* name) {
  TORCH_CHECK(
      tensor.device().is_cpu() && tensor.scalar_type() == dtype && tensor.sizes() == sizes && tensor.is_contiguous(),
      name, " must be contiguous ", dtype, " ", sizes, " on the CPU, got ", tensor.scalar_type(), " ", tensor.sizes());
}

// Offsets that kernels may trust: int64, from 0 to the number of rows, never falling.
inline int64_t check_offsets(const at::Tensor& offsets, int64_t rows, const char* name) {
  TORCH_CHECK(offsets.device().is_cpu() && offsets.scalar_type() == at::kLong && offsets.dim() == 1 &&
                  offsets.numel() > 0 && offsets.is_contiguous(),
              name, " must be a contiguous int64 vector [images + 1] on the CPU");
  const int64_t* values = offsets.const_data_ptr<int64_t>();
  const int64_t images = offsets.numel() - 1;
  bool rising = values[0] == 0 && values[images] == rows;
  for (int64_t image = 0; image < images; ++image) rising = rising && values[image] <= values[image + 1];
  TORCH_CHECK(rising, name, " must rise from 0 to the number of rows, ", rows);
  return images;
}

}  // namespace rpe
