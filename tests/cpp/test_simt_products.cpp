// The emulated device's numbers, loads of matrices and products, against their definitions.
#include "cuda/device.cuh"
#include "launch_errors.h"

namespace {

using rpe::cuda::Half;
using testing::error_of;

uint16_t bits_of(float value) {
  return uint16_t(rpe::cuda::pack_halves(value, 0.0f));
}
float value_of(uint16_t bits) {
  return rpe::cuda::unpack_halves(bits).x;
}

void check_numbers() {
  testing::context() = "numbers";
  using namespace rpe::cuda;
  CHECK(bits_of(1.0f) == 0x3c00);
  CHECK(bits_of(2049.0f) == bits_of(2048.0f));
  CHECK(bits_of(2051.0f) == bits_of(2052.0f));
  CHECK(bits_of(1e6f) == 0x7c00);
  CHECK(pack_halves(1.0f, -2.0f) == 0xc0003c00u);
  CHECK(unpack_halves(0xc0003c00u).x == 1.0f && unpack_halves(0xc0003c00u).y == -2.0f);
  CHECK(bits_float(float_bits(-0.1f)) == -0.1f);
  CHECK(exp2_approximate(3.0f) == 8.0f);
  CHECK(exp2_approximate(-126.0f) == 0x1p-126f);
  CHECK(exp2_approximate(-126.5f) == 0.0f);
  CHECK(exp2_approximate(-INFINITY) == 0.0f);
}

struct Products {
  const uint16_t *a, *b;  // [16 x depth], [depth x 8], row after row
  const float* start;     // [16 x 8]
  float* result;
  int depth;
};

// The fragments as the tables of the PTX manual give them, element by element.
RPE_KERNEL(32, 1) multiply_by_table(Products problem) {
  const int lane = rpe::cuda::thread_index(), group = lane >> 2, in_group = lane % 4;
  uint32_t a[4] = {}, b[2] = {};
  for (int i = 0; i < problem.depth / 2; ++i) {
    const int row = problem.depth == 8 ? (i < 2 ? group : group + 8) : (i < 2 || (i >= 4 && i < 6) ? group : group + 8);
    const int column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
    a[i / 2] |= uint32_t(problem.a[row * problem.depth + column]) << 16 * (i % 2);
  }
  for (int i = 0; i < problem.depth / 4; ++i) {
    const int row = in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0);
    b[i / 2] |= uint32_t(problem.b[row * 8 + group]) << 16 * (i % 2);
  }
  float c[4];
  const auto at = [&](int i) { return (i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1); };
  for (int i = 0; i < 4; ++i) c[i] = problem.start[at(i)];
  if (problem.depth == 16) {
    rpe::cuda::mma_m16n8k16(c, a, b[0], b[1]);
  } else {
    rpe::cuda::mma_m16n8k8(c, a[0], a[1], b[0]);
  }
  for (int i = 0; i < 4; ++i) problem.result[at(i)] = c[i];
}

// The same by ldmatrix, from both operands as they stand in memory.
RPE_KERNEL(32, 1) multiply_by_ldmatrix(Products problem) {
  using namespace rpe::cuda;
  const int lane = thread_index();
  Half* a = reinterpret_cast<Half*>(shared_memory());
  Half* b = a + 16 * problem.depth;
  for (int i = 2 * lane; i < 16 * problem.depth; i += 64) copy_async_4(a + i, problem.a + i, true);
  for (int i = 8 * lane; i < 8 * problem.depth; i += 256) copy_async_16(b + i, problem.b + i, true);
  copy_async_commit();
  copy_async_wait<0>();
  barrier();
  uint32_t left[4], right[2];
  float c[4];
  const auto at = [&](int i) { return (lane / 4 + i / 2 * 8) * 8 + 2 * (lane % 4) + i % 2; };
  for (int i = 0; i < 4; ++i) c[i] = problem.start[at(i)];
  if (problem.depth == 16) {
    ldmatrix_x4(left, a + lane % 16 * 16 + lane / 16 * 8);
    ldmatrix_x2_transposed(right, b + lane % 16 * 8);
    mma_m16n8k16(c, left, right[0], right[1]);
  } else {
    uint32_t halves[2];
    ldmatrix_x2(halves, a + lane % 16 * 8);
    ldmatrix_x2_transposed(right, b + lane % 8 * 8);
    mma_m16n8k8(c, halves[0], halves[1], right[0]);
  }
  for (int i = 0; i < 4; ++i) problem.result[at(i)] = c[i];
}

void check_products(int depth, bool exact) {
  std::mt19937 generator(7);
  std::uniform_real_distribution<float> uniform(-2.0f, 2.0f);
  const auto draw = [&] { return exact ? std::round(4 * uniform(generator)) : uniform(generator); };
  // The address sanitizer's heap aligns to 16.
  std::vector<uint16_t> a(size_t(16 * depth)), b(size_t(depth * 8));
  std::vector<float> start(16 * 8);
  for (uint16_t& value : a) value = bits_of(draw());
  for (uint16_t& value : b) value = bits_of(draw());
  for (float& value : start) value = draw();
  a[3] = 1;  // a subnormal number
  for (const auto kernel : {multiply_by_table, multiply_by_ldmatrix}) {
    std::vector<float> result(16 * 8);
    CHECK(error_of(kernel, {1, 1, 1}, 32, size_t(48 * depth),
                   Products{a.data(), b.data(), start.data(), result.data(), depth}) == "");
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        double sum = start[size_t(row * 8 + column)];
        for (int k = 0; k < depth; ++k) {
          sum += double(value_of(a[size_t(row * depth + k)])) * double(value_of(b[size_t(k * 8 + column)]));
        }
        CHECK_NEAR(result[size_t(row * 8 + column)], sum, 2e-5);
      }
    }
  }
}

struct Matrices {
  uint32_t* results;  // [12 x 32]: four registers of x4, of x4 transposed, two of x2, of x2 transposed
};

RPE_KERNEL(32, 1) load_all_matrices(Matrices problem) {
  using namespace rpe::cuda;
  const int lane = thread_index();
  Half* rows = reinterpret_cast<Half*>(shared_memory());
  // Element (row, column) of matrix m is 64 m + 8 row + column; rows lie 24 elements apart.
  for (int column = 0; column < 8; ++column) {
    shared_store(reinterpret_cast<uint16_t*>(rows + 24 * lane + column), uint16_t(8 * lane + column));
  }
  barrier();
  uint32_t four[4], two[2];
  ldmatrix_x4(four, rows + 24 * lane);
  for (int k = 0; k < 4; ++k) problem.results[32 * k + lane] = four[k];
  ldmatrix_x4_transposed(four, rows + 24 * lane);
  for (int k = 0; k < 4; ++k) problem.results[32 * (4 + k) + lane] = four[k];
  // The upper lanes' addresses do not matter.
  const Half* row = lane < 16 ? rows + 24 * lane : nullptr;
  ldmatrix_x2(two, row);
  for (int k = 0; k < 2; ++k) problem.results[32 * (8 + k) + lane] = two[k];
  ldmatrix_x2_transposed(two, row);
  for (int k = 0; k < 2; ++k) problem.results[32 * (10 + k) + lane] = two[k];
}

void check_matrices() {
  uint32_t results[12 * 32];
  CHECK(error_of(load_all_matrices, {1, 1, 1}, 32, 32 * 24 * 2, Matrices{results}) == "");
  for (int k = 0; k < 12; ++k) {
    const bool transposed = (k >= 4 && k < 8) || k >= 10;
    const uint32_t base = uint32_t(64 * (k < 8 ? k % 4 : k % 2));
    for (uint32_t lane = 0; lane < 32; ++lane) {
      const uint32_t minor = 2 * (lane % 4), major = lane / 4;
      const uint32_t low = transposed ? 8 * minor + major : 8 * major + minor;
      const uint32_t high = transposed ? 8 * (minor + 1) + major : 8 * major + minor + 1;
      CHECK(results[32 * uint32_t(k) + lane] == ((base + low) | (base + high) << 16));
    }
  }
}

}  // namespace

int main() {
  testing::keep_errors();
  check_numbers();
  testing::for_each_order([] {
    for (int depth = 8; depth <= 16; depth += 8) {
      check_products(depth, true);
      check_products(depth, false);
    }
    check_matrices();
  });
  return testing::finish();
}
