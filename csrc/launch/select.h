// Which SIMD variant runs: chosen once from what the CPU reports, overridable for tests and bug reports.
#pragma once

#include "connected_components.h"
#include "mean_shift.h"
#include "pairwise_loss.h"
#include "seeding.h"

#include <string>
#include <vector>

namespace rpe {

// Variants in this binary that this CPU can run, best first ("portable" is always among them).
std::vector<std::string> simd_variants();
// Variants compiled into this binary.
std::vector<std::string> simd_compiled();
std::string simd_current();
// Selects a variant by name, "auto" for the best. Returns false, changing nothing, where it cannot run.
bool simd_select(const std::string& variant);
// Whether the selected variant multiplies bfloat16 numbers.
bool simd_half_products();

template <class T>
const PairwiseLossKernels<T>& pairwise_loss_kernels();
template <class T>
const MeanShiftKernels<T>& mean_shift_kernels();
template <class T>
const MeanShiftBackwardKernels<T>& mean_shift_backward_kernels();
template <class T>
const ConnectedComponentsKernels<T>& connected_components_kernels();
template <class T>
const SeedingKernels<T>& seeding_kernels();

}  // namespace rpe
