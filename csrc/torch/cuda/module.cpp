// The Python module of the CUDA extension. It only answers questions about the build; no tensor passes through here.
// The build supplies RPE_MODULE_NAME, RPE_BUILD_FLAGS, RPE_BUILD_DIGEST, RPE_TORCH_VERSION and RPE_BUILD_ARCHITECTURES.
#include "../../cuda/resources.h"

#include <pybind11/pybind11.h>

namespace {

pybind11::dict build_info() {
  pybind11::dict info;
  info["flags"] = RPE_BUILD_FLAGS;
  info["digest"] = RPE_BUILD_DIGEST;
  info["torch"] = RPE_TORCH_VERSION;
  info["architectures"] = RPE_BUILD_ARCHITECTURES;
  return info;
}

pybind11::list kernel_resources() {
  using namespace rpe::cuda;
  std::vector<KernelResources> all;
  mean_shift_forward_resources(all);
  blurring_backward_resources(all);
  two_sided_backward_resources(all);
  pairwise_loss_resources(all);
  connected_components_resources(all);
  pybind11::list result;
  for (const KernelResources& own : all) {
    pybind11::dict entry;
    entry["kernel"] = own.name;
    entry["dim"] = own.dim;
    entry["half"] = own.half;
    entry["threads"] = own.threads;
    entry["registers"] = own.registers;
    entry["shared_bytes"] = own.shared_bytes;
    entry["spilled_bytes"] = own.spilled_bytes;
    entry["blocks_per_processor"] = own.blocks_per_processor;
    result.append(entry);
  }
  return result;
}

}  // namespace

PYBIND11_MODULE(RPE_MODULE_NAME, module) {
  module.doc() = "CUDA kernels of rpe_ops; operators are registered as torch.ops.rpe_ops_cuda.*";
  module.def("build_info", &build_info, "Flags, digest, torch version and architectures of this build.");
  module.def("kernel_resources", &kernel_resources,
             "Registers, shared memory, spills and occupancy of each kernel over pairs, on the current GPU.");
}
