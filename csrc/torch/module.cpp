// The Python module of the extension. It only answers questions about the build; no tensor passes through here.
// build.py supplies RPE_MODULE_NAME, RPE_BUILD_FLAGS, RPE_BUILD_DIGEST and RPE_TORCH_VERSION.
#include "../launch/select.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace {

pybind11::dict build_info() {
  pybind11::dict info;
#if defined(__clang__)
  info["compiler"] = std::string("clang ") + __clang_version__;
#else
  info["compiler"] = std::string("g++ ") + __VERSION__;
#endif
  info["flags"] = RPE_BUILD_FLAGS;
  info["digest"] = RPE_BUILD_DIGEST;
  info["torch"] = RPE_TORCH_VERSION;
#if defined(_OPENMP)
  info["openmp"] = true;
#else
  info["openmp"] = false;
#endif
  info["simd_compiled"] = rpe::simd_compiled();
  info["simd_supported"] = rpe::simd_variants();
  info["simd"] = rpe::simd_current();
  return info;
}

}  // namespace

PYBIND11_MODULE(RPE_MODULE_NAME, module) {
  module.doc() = "Native kernels of rpe_ops; operators are registered as torch.ops.rpe_ops_native.*";
  module.def("build_info", &build_info, "Compiler, flags, digest, torch version and SIMD variants of this build.");
}
