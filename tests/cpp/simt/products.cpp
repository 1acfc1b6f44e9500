// What a warp does with the matrices of tensor cores.
#include "simt.h"

namespace simt {

namespace {

struct MatrixOperand {
  uint16_t row[8];
  uint32_t* result;
};

template <int kMatrices, bool kTransposed>
void compute_ldmatrix(void* const* operands) {
  const auto lane = [&](int index) { return static_cast<MatrixOperand*>(operands[index]); };
  for (int index = 0; index < kLanes; ++index) {
    const int major = index / 4, minor = 2 * (index % 4);
    for (int matrix = 0; matrix < kMatrices; ++matrix) {
      const auto element = [&](int row, int column) { return uint32_t(lane(8 * matrix + row)->row[column]); };
      lane(index)->result[matrix] = kTransposed ? element(minor, major) | element(minor + 1, major) << 16
                                                : element(major, minor) | element(major, minor + 1) << 16;
    }
  }
}

// The sanitizers would spend most of a test's time here, on arrays whose indices depend on nothing.
#define SIMT_PLAIN __attribute__((no_sanitize("address", "undefined")))

template <int kRows, int kColumns>
SIMT_PLAIN void widen(float (&values)[kRows][kColumns], const uint32_t (&halves)[kRows][kColumns]) {
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < kColumns; ++column) {
      // The half's exponent and fraction in a float's place, too small by 2^112; exact for subnormal numbers too.
      const uint32_t half = halves[row][column], magnitude = (half & 0x7fffu) << 13;
      float value;
      __builtin_memcpy(&value, &magnitude, sizeof(value));
      value *= 0x1p112f;
      uint32_t bits;
      __builtin_memcpy(&bits, &value, sizeof(bits));
      bits |= ((half & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u) | (half & 0x8000u) << 16;
      __builtin_memcpy(&values[row][column], &bits, sizeof(bits));
    }
  }
}

// To float, toward zero: tensor cores cut off what does not fit a sum.
SIMT_PLAIN float truncated(double value) {
  float result = float(value);
  if (std::fabs(double(result)) > std::fabs(value)) result = std::nextafter(result, 0.0f);
  return result;
}

template <int kDepth>
SIMT_PLAIN void compute_mma(void* const* operands) {
  uint32_t a_halves[16][kDepth], b_halves[kDepth][8];
  float a[16][kDepth], b[kDepth][8], c[16][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    const ProductOperand& operand = *static_cast<const ProductOperand*>(operands[lane]);
    const int group = lane / 4, pair = 2 * (lane % 4);
    for (int k = 0; k < kDepth / 8; ++k) {
      for (int half = 0; half < 2; ++half) {
        a_halves[group][8 * k + pair + half] = operand.a[2 * k] >> 16 * half & 0xffffu;
        a_halves[group + 8][8 * k + pair + half] = operand.a[2 * k + 1] >> 16 * half & 0xffffu;
        b_halves[8 * k + pair + half][group] = operand.b[k] >> 16 * half & 0xffffu;
      }
    }
    for (int i = 0; i < 4; ++i) c[group + 8 * (i / 2)][pair + i % 2] = operand.c[i];
  }
  widen(a, a_halves);
  widen(b, b_halves);
  for (int row = 0; row < 16; ++row) {
    double sum[8];
    for (int column = 0; column < 8; ++column) sum[column] = c[row][column];
    for (int k = 0; k < kDepth; ++k) {
      for (int column = 0; column < 8; ++column) sum[column] += double(a[row][k] * b[k][column]);
    }
    for (int column = 0; column < 8; ++column) c[row][column] = truncated(sum[column]);
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    const ProductOperand& operand = *static_cast<const ProductOperand*>(operands[lane]);
    const int group = lane / 4, pair = 2 * (lane % 4);
    for (int i = 0; i < 4; ++i) operand.c[i] = c[group + 8 * (i / 2)][pair + i % 2];
  }
}

}  // namespace

template <int kMatrices, bool kTransposed>
void load_matrices(const char* name, uint32_t* result, const void* row, Where where) {
  MatrixOperand operand = {{}, result};
  if (current.thread % kLanes < 8 * kMatrices) std::memcpy(operand.row, read_shared(name, row, 16, 16, where), 16);
  meet_warp(name, compute_ldmatrix<kMatrices, kTransposed>, &operand, where);
}
template void load_matrices<4, false>(const char*, uint32_t*, const void*, Where);
template void load_matrices<4, true>(const char*, uint32_t*, const void*, Where);
template void load_matrices<2, false>(const char*, uint32_t*, const void*, Where);
template void load_matrices<2, true>(const char*, uint32_t*, const void*, Where);

void compute_mma_k16(void* const* operands) {
  compute_mma<16>(operands);
}
void compute_mma_k8(void* const* operands) {
  compute_mma<8>(operands);
}

}  // namespace simt
