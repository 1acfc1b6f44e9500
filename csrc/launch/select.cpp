// Run-time choice of the SIMD variant (see select.h).
#include "select.h"

#include <atomic>

namespace rpe {

#define RPE_DECLARE(VARIANT)                                                    \
  namespace VARIANT {                                                           \
  extern const PairwiseLossKernels<float> pairwise_loss_float32;                \
  extern const PairwiseLossKernels<double> pairwise_loss_float64;               \
  extern const MeanShiftKernels<float> mean_shift_float32;                      \
  extern const MeanShiftKernels<double> mean_shift_float64;                     \
  extern const MeanShiftBackwardKernels<float> mean_shift_backward_float32;     \
  extern const MeanShiftBackwardKernels<double> mean_shift_backward_float64;    \
  extern const ConnectedComponentsKernels<float> connected_components_float32;  \
  extern const ConnectedComponentsKernels<double> connected_components_float64; \
  extern const SeedingKernels<float> seeding_float32;                           \
  extern const SeedingKernels<double> seeding_float64;                          \
  }

RPE_DECLARE(portable)
#if defined(__x86_64__)
RPE_DECLARE(avx2)
RPE_DECLARE(avx512)
#endif
#undef RPE_DECLARE

namespace {

struct Variant {
  const char* name;
  bool (*supported)();
  bool half_products;
  const PairwiseLossKernels<float>* pairwise_loss_float32;
  const PairwiseLossKernels<double>* pairwise_loss_float64;
  const MeanShiftKernels<float>* mean_shift_float32;
  const MeanShiftKernels<double>* mean_shift_float64;
  const MeanShiftBackwardKernels<float>* mean_shift_backward_float32;
  const MeanShiftBackwardKernels<double>* mean_shift_backward_float64;
  const ConnectedComponentsKernels<float>* connected_components_float32;
  const ConnectedComponentsKernels<double>* connected_components_float64;
  const SeedingKernels<float>* seeding_float32;
  const SeedingKernels<double>* seeding_float64;
};

#define RPE_TABLES(VARIANT)                                                                                       \
  &VARIANT::pairwise_loss_float32, &VARIANT::pairwise_loss_float64, &VARIANT::mean_shift_float32,                 \
      &VARIANT::mean_shift_float64, &VARIANT::mean_shift_backward_float32, &VARIANT::mean_shift_backward_float64, \
      &VARIANT::connected_components_float32, &VARIANT::connected_components_float64, &VARIANT::seeding_float32,  \
      &VARIANT::seeding_float64

#if defined(__x86_64__)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("fma");
}
bool has_avx512_bf16() {
  return has_avx512() && __builtin_cpu_supports("avx512bf16");
}
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif
bool always() {
  return true;
}

const Variant kVariants[] = {
#if defined(__x86_64__)
    // One set of kernels, of which those for bfloat16 are used or not.
    {"avx512_bf16", has_avx512_bf16, true, RPE_TABLES(avx512)},
    {"avx512", has_avx512, false, RPE_TABLES(avx512)},
    {"avx2", has_avx2, false, RPE_TABLES(avx2)},
#endif
    {"portable", always, false, RPE_TABLES(portable)},
};
#undef RPE_TABLES

const Variant* best() {
  for (const Variant& variant : kVariants) {
    if (variant.supported()) return &variant;
  }
  return &kVariants[sizeof(kVariants) / sizeof(kVariants[0]) - 1];
}

std::atomic<const Variant*>& current() {
  static std::atomic<const Variant*> variant{best()};
  return variant;
}

}  // namespace

std::vector<std::string> simd_compiled() {
  std::vector<std::string> names;
  for (const Variant& variant : kVariants) names.emplace_back(variant.name);
  return names;
}

std::vector<std::string> simd_variants() {
  std::vector<std::string> names;
  for (const Variant& variant : kVariants) {
    if (variant.supported()) names.emplace_back(variant.name);
  }
  return names;
}

std::string simd_current() {
  return current().load()->name;
}

bool simd_select(const std::string& name) {
  if (name == "auto") {
    current().store(best());
    return true;
  }
  for (const Variant& variant : kVariants) {
    if (name == variant.name && variant.supported()) {
      current().store(&variant);
      return true;
    }
  }
  return false;
}

bool simd_half_products() {
  return current().load()->half_products;
}

#define RPE_ACCESSOR(FUNCTION, TABLE, OP)   \
  template <>                               \
  const TABLE<float>& FUNCTION<float>() {   \
    return *current().load()->OP##_float32; \
  }                                         \
  template <>                               \
  const TABLE<double>& FUNCTION<double>() { \
    return *current().load()->OP##_float64; \
  }
RPE_ACCESSOR(pairwise_loss_kernels, PairwiseLossKernels, pairwise_loss)
RPE_ACCESSOR(mean_shift_kernels, MeanShiftKernels, mean_shift)
RPE_ACCESSOR(mean_shift_backward_kernels, MeanShiftBackwardKernels, mean_shift_backward)
RPE_ACCESSOR(connected_components_kernels, ConnectedComponentsKernels, connected_components)
RPE_ACCESSOR(seeding_kernels, SeedingKernels, seeding)
#undef RPE_ACCESSOR

}  // namespace rpe
