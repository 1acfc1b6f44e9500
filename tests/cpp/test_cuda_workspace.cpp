// How much memory csrc/cuda asks for beside inputs and results, at every width: a formula for a 512 x 512 image, every
// pixel a point. Nothing is launched.
#include "cuda/mean_shift.h"
#include "cuda/pairwise_loss.h"
#include "cuda/traits.cuh"
#include "testing.h"

namespace {

constexpr int64_t kPoints = 512 * 512;
constexpr int kProcessors = 132;

// What one operation holds of each point: float32 rows and operands, which are float16 rows in one part or, float32-grade,
// in two, all of them padded; and numbers, in bytes.
struct Cost {
  const char* name;
  int64_t rows, operands, numbers;

  // The formula. A sixteenth more for what thread blocks have: tile counts, sums of groups of rows.
  double bytes(int64_t dim, bool half) const {
    const int64_t width = rpe::cuda::padded_width(dim), copies = half ? 1 : 2;
    return double(kPoints) * double(width * (4 * rows + 2 * copies * operands) + numbers) * 17 / 16;
  }
};

// The sums of a walk are its rows; a backward also has the rows of slopes.
constexpr Cost kForward{"forward", 1, 1, 20}, kSeeded{"forward, seeds", 1, 2, 20}, kBlurring{"backward", 3, 2, 28};
constexpr Cost kMasses{"backward, masses", 4, 2, 56}, kTwoSided{"backward, seeds", 4, 3, 56};
constexpr Cost kLoss{"loss", 1, 2, 28}, kLossWithGradient{"loss with gradient", 2, 2, 28};

template <class Problem>
void check(const Cost& cost, size_t (*function)(const Problem&, void*, void*), Problem problem) {
  for (int64_t dim : {1, 8, 9, 16, 24, 32, 48, 64, 100, 128, 200, 256}) {
    for (bool half : {true, false}) {
      testing::context() = std::string(cost.name) + ", dim " + std::to_string(dim) + (half ? ", half" : "");
      problem.dim = dim;
      problem.half = half;
      const double bytes = double(function(problem, nullptr, nullptr)), most = cost.bytes(dim, half);
      CHECK(bytes <= most);
      CHECK(bytes >= 0.8 * most);  // the formula says what is there, not merely enough
    }
  }
}

rpe::cuda::MeanShift step(bool blurring, const float* log_weight) {
  rpe::cuda::MeanShift p{};
  p.blurring = blurring;
  p.log_weight = log_weight;
  p.num_points = p.num_sources = kPoints;
  p.num_images = 1;
  p.processors = kProcessors;
  return p;
}

rpe::cuda::PairwiseLoss loss(float* grad) {
  rpe::cuda::PairwiseLoss p{};
  p.num_points = kPoints;
  p.num_images = 1;
  p.processors = kProcessors;
  p.grad = grad;
  return p;
}

}  // namespace

int main() {
  float something = 0;
  check(kForward, rpe::cuda::mean_shift_forward, step(true, nullptr));
  check(kForward, rpe::cuda::mean_shift_forward, step(true, &something));
  check(kSeeded, rpe::cuda::mean_shift_forward, step(false, nullptr));
  check(kBlurring, rpe::cuda::mean_shift_backward, step(true, nullptr));
  check(kMasses, rpe::cuda::mean_shift_backward, step(true, &something));
  check(kTwoSided, rpe::cuda::mean_shift_backward, step(false, nullptr));
  check(kLoss, rpe::cuda::pairwise_loss, loss(nullptr));
  check(kLossWithGradient, rpe::cuda::pairwise_loss, loss(&something));
  return testing::finish();
}
