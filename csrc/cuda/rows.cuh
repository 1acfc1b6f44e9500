// Work per row, O(N D): rows to float16 operands, sums and maxima over images, tiles of images. Nothing here sees pairs.
//
// A row is shared by kLanes = kDim / 8 lanes of one warp, eight features each. Sums run in a fixed order; maxima are
// atomic, on the bits of magnitudes, which order as integers do and leave NaN the largest.
#pragma once

#include "../launch/workspace.h"
#include "device.cuh"
#include "resources.h"
#include "walk.cuh"

namespace rpe {
namespace cuda {

template <int kDim>
struct RowLanes {
  static constexpr int kLanes = kDim / 8;
  static constexpr int kRows = kRowThreads / kLanes;  // of one thread block
  int64_t row;
  int lane;
  bool inside;

  RPE_DEVICE_MEMBER explicit RowLanes(int64_t num_rows) {
    row = int64_t(block_index().x) * kRows + thread_index() / kLanes;
    lane = thread_index() % kLanes;
    inside = row < num_rows;
  }
  static Grid grid(int64_t num_rows) { return {unsigned((num_rows + kRows - 1) / kRows), 1, 1}; }

  // The lanes' features of a row of [rows, dim]; zeros beyond dim and outside.
  RPE_DEVICE_MEMBER void load(float (&value)[8], const float* rows, int64_t dim) const {
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const int64_t feature = lane * 8 + k;
      value[k] = inside && feature < dim ? rows[row * dim + feature] : 0.0f;
    }
  }
  RPE_DEVICE_MEMBER void store(float* rows, const float (&value)[8], int64_t dim) const {
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const int64_t feature = lane * 8 + k;
      if (inside && feature < dim) rows[row * dim + feature] = value[k];
    }
  }
  // The same of a padded row of [rows, kDim].
  RPE_DEVICE_MEMBER void load_padded(float (&value)[8], const float* rows) const {
    const float4* place = reinterpret_cast<const float4*>(rows + (inside ? row : 0) * kDim + lane * 8);
    const float4 first = place[0], second = place[1];
    const float all[8] = {first.x, first.y, first.z, first.w, second.x, second.y, second.z, second.w};
#pragma unroll
    for (int k = 0; k < 8; ++k) value[k] = inside ? all[k] : 0.0f;
  }
  RPE_DEVICE_MEMBER void store_padded(float* rows, const float (&value)[8]) const {
    if (!inside) return;
    float4* place = reinterpret_cast<float4*>(rows + row * kDim + lane * 8);
    place[0] = float4{value[0], value[1], value[2], value[3]};
    place[1] = float4{value[4], value[5], value[6], value[7]};
  }
  // Sum over the row's lanes, the same in each.
  template <class V>
  RPE_DEVICE_MEMBER static V sum(V value) {
#pragma unroll
    for (int mask = 1; mask < kLanes; mask *= 2) value += shuffle_xor(value, mask);
    return value;
  }
  RPE_DEVICE_MEMBER static float dot(const float (&one)[8], const float (&other)[8]) {
    float value = 0;
#pragma unroll
    for (int k = 0; k < 8; ++k) value += one[k] * other[k];
    return sum(value);
  }
  // Stores the row's float16 copy, and what it leaves, and makes `value` the row that they stand for.
  RPE_DEVICE_MEMBER void store_operand(Half* high, Half* low, float (&value)[8]) const {
    uint32_t first[4], second[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      first[k] = pack_halves(value[2 * k], value[2 * k + 1]);
      const float2 rounded = unpack_halves(first[k]);
      if (low == nullptr) {
        value[2 * k] = rounded.x;
        value[2 * k + 1] = rounded.y;
      } else {
        second[k] = pack_halves(value[2 * k] - rounded.x, value[2 * k + 1] - rounded.y);
        const float2 rest = unpack_halves(second[k]);
        value[2 * k] = rounded.x + rest.x;
        value[2 * k + 1] = rounded.y + rest.y;
      }
    }
    if (!inside) return;
    const int64_t place = row * kDim + lane * 8;
    *reinterpret_cast<uint4*>(high + place) = uint4{first[0], first[1], first[2], first[3]};
    if (low != nullptr) *reinterpret_cast<uint4*>(low + place) = uint4{second[0], second[1], second[2], second[3]};
  }
  // maximum[image] = largest of the rows' magnitudes. Every thread of the warp takes part.
  RPE_DEVICE_MEMBER void image_maximum(uint32_t* maximum, int image, float value) const {
    const uint32_t bits = inside ? float_bits(value) & 0x7fffffffu : 0u;
    const int first = shuffle(image, 0);
    if (!any_in_warp(inside && image != first)) {
      uint32_t largest = bits;
#pragma unroll
      for (int mask = kLanes; mask < kWarpSize; mask *= 2) {
        const uint32_t other = shuffle_xor(largest, mask);
        largest = other > largest ? other : largest;
      }
      if (thread_index() % kWarpSize == 0 && inside) atomic_max(maximum + image, largest);
    } else if (inside && lane == 0) {
      atomic_max(maximum + image, bits);
    }
  }
  RPE_DEVICE_MEMBER int image(const int64_t* offsets, int num_images) const {
    return find_segment(offsets, num_images, inside ? row : 0);
  }
};

// The largest power of two by which `longest` grows to at most `target`; 1 for 0. Multiplying by it rounds nothing.
RPE_DEVICE float power_of_two(float longest, float target) {
  if (!(longest > 0.0f)) return 1.0f;
  int exponent = int(float_bits(target / longest) >> 23) - 127;
  exponent = exponent < -120 ? -120 : exponent > 120 ? 120 : exponent;
  return bits_float(uint32_t(exponent + 127) << 23);
}

struct CountTiles {
  int32_t* before;  // [images + 1]
  const int64_t* offsets;
  int num_images;
  int height;
};

// Number of row tiles before each image.  Owns: everything; one warp.  Types: integers.  Bits: integers.
RPE_KERNEL(kWarpSize, 1) count_tiles_kernel(CountTiles p) {
  const int lane = lane_index();
  int32_t total = 0;
  for (int first = 0; first < p.num_images; first += kWarpSize) {
    const int image = first + lane;
    int32_t sum = 0;
    if (image < p.num_images) sum = int32_t((p.offsets[image + 1] - p.offsets[image] + p.height - 1) / p.height);
    for (int reach = 1; reach < kWarpSize; reach *= 2) {
      const int32_t other = shuffle(sum, lane >= reach ? lane - reach : lane);
      if (lane >= reach) sum += other;
    }
    if (image < p.num_images) p.before[image + 1] = total + sum;
    total += shuffle(sum, kWarpSize - 1);
  }
  if (lane == 0) p.before[0] = 0;
}

inline void count_tiles(int32_t* before, const int64_t* offsets, int num_images, int height, Stream stream) {
  launch(count_tiles_kernel, {}, kWarpSize, 0, stream, CountTiles{before, offsets, num_images, height});
}

// What rounding to operands did to the lengths of an image's rows: largest squared lengths of the rows that the operands
// stand for and of the rows themselves, and the largest difference between the two. Bits of floats.
struct ImageLengths {
  uint32_t rounded, exact, difference;
};
// exp(kappa x_i.y_j) of rounded rows is off by the rounding of their lengths too, which kappa magnifies. Cosines are therefore
// x_i.y_j - excess_i - excess_j, in which lengths are the rows' own. Under a fixed shift that costs an addition a pair, and
// is left out below this exponent, by both directions of a step alike; with a running reference it costs nothing.
constexpr float kLargestLengthExponent = 0x1p-4f;
// What rounding to float16 or bfloat16 may do to the squared length of a unit row.
constexpr float kHalfRounding = 0x1p-6f;
RPE_DEVICE bool lengths_matter(const ImageLengths& image, float log2_kappa) {
  return bits_float(image.difference) * log2_kappa > kLargestLengthExponent;
}
// Largest squared length that cosines of an image may have; float32 sums of up to 256 products err by less than the factor.
RPE_DEVICE float largest_squared(const ImageLengths& image, bool corrected) {
  return bits_float(corrected ? image.exact : image.rounded) * (1.0f + 0x1p-19f);
}

struct PrepareRows {
  const float* rows;  // [rows, dim]
  int64_t num_rows, dim;
  const int64_t* offsets;
  int num_images;
  Half *high, *low;     // [rows, kDim]; low may be null
  float* squared;       // [rows], squared lengths of the rows that the operands stand for; may be null
  float* excess;        // [rows], half of what rounding added to them; null with `squared`
  ImageLengths* image;  // [images]; null with `squared`
};

// Rows to operands.
// Computes float16(x) and float16(x - float16(x)), and the lengths of x and of what they stand for.
// Owns     RowLanes::kRows rows.  Tiles: none.  Types: float32 to float16.  Bits: one writer, integer maxima.
template <int kDim>
RPE_KERNEL(kRowThreads, 1)
prepare_rows_kernel(PrepareRows p) {
  const RowLanes<kDim> lanes(p.num_rows);
  float value[8];
  lanes.load(value, p.rows, p.dim);
  float exact = p.squared == nullptr ? 0.0f : lanes.dot(value, value);
  // a unit row that came rounded to a half type is a unit row
  if (fabsf(exact - 1.0f) < kHalfRounding) exact = 1.0f;
  lanes.store_operand(p.high, p.low, value);
  if (p.squared == nullptr) return;
  const float rounded = lanes.dot(value, value);
  if (lanes.inside && lanes.lane == 0) {
    p.squared[lanes.row] = rounded;
    p.excess[lanes.row] = 0.5f * (rounded - exact);
  }
  const int image = lanes.image(p.offsets, p.num_images);
  lanes.image_maximum(&p.image->rounded, 3 * image, rounded);
  lanes.image_maximum(&p.image->exact, 3 * image, exact);
  lanes.image_maximum(&p.image->difference, 3 * image, rounded - exact);
}

struct SumValues {
  const double* values;    // [rows]
  const int64_t* offsets;  // [images + 1]; null: all rows are one image
  int64_t num_rows;
  double factor;
  double* part_sums;  // [images, num_parts]
  int num_parts;      // that the rows of each image are cut into, of equal length but the last ones
  float* sums;        // [images]
};

// Sums of the parts of each image's values.
// Owns     one part of one image; thread block (image, part).  Tiles: none.  Types: float64.
// Bits     threads take rows in a fixed pattern and are added in order.
RPE_KERNEL(kRowThreads, 1) sum_parts_kernel(SumValues p) {
  const int image = int(block_index().x), part = int(block_index().y);
  const int64_t first = p.offsets == nullptr ? 0 : p.offsets[image];
  const int64_t last = p.offsets == nullptr ? p.num_rows : p.offsets[image + 1];
  const int64_t each = (last - first + p.num_parts - 1) / p.num_parts;
  const int64_t begin = first + part * each, end = begin + each < last ? begin + each : last;
  double total = 0;
  for (int64_t row = begin + thread_index(); row < end; row += kRowThreads) total += p.values[row];
  for (int mask = 1; mask < kWarpSize; mask *= 2) total += shuffle_xor(total, mask);
  double* sums = reinterpret_cast<double*>(shared_memory());
  if (lane_index() == 0) shared_store(sums + warp_index(), total);
  barrier();
  if (thread_index() != 0) return;
  total = 0;
  for (int warp = 0; warp < kRowThreads / kWarpSize; ++warp) total += shared_load(sums + warp);
  p.part_sums[int64_t(image) * p.num_parts + part] = total;
}

// factor times the sum of one number per row, over each image, from the sums of its parts.
// Owns     one image; one warp.  Tiles: none.  Types: float64 to float32.  Bits: lanes take parts in a fixed pattern.
RPE_KERNEL(kWarpSize, 1) add_parts_kernel(SumValues p) {
  const int64_t image = int64_t(block_index().x);
  double total = 0;
  for (int part = lane_index(); part < p.num_parts; part += kWarpSize) total += p.part_sums[image * p.num_parts + part];
  for (int mask = 1; mask < kWarpSize; mask *= 2) total += shuffle_xor(total, mask);
  if (lane_index() == 0) p.sums[image] = float(p.factor * total);
}

// Sums of one number per row in the workspace. The cut into parts follows from shapes alone, so that equal shapes give
// equal sums.
struct SumSpace {
  int num_images, num_parts;
  double* part_sums;
  SumSpace(Workspace& space, int64_t num_rows, int images) : num_images(images) {
    const int64_t rows = num_rows / (images > 0 ? images : 1);
    num_parts = int(rows < kSumParts * kRowsOfPart ? (rows + kRowsOfPart - 1) / kRowsOfPart : kSumParts);
    if (num_parts < 1) num_parts = 1;
    part_sums = space.take<double>(int64_t(num_images) * num_parts);
  }
  // sums[image] = factor times the sum of the image's values.
  void run(const double* values, const int64_t* offsets, int64_t num_rows, double factor, float* sums,
           Stream stream) const {
    const SumValues p{values, offsets, num_rows, factor, part_sums, num_parts, sums};
    launch(sum_parts_kernel, {unsigned(num_images), unsigned(num_parts), 1}, kRowThreads,
           kRowThreads / kWarpSize * sizeof(double), stream, p);
    launch(add_parts_kernel, {unsigned(num_images), 1, 1}, kWarpSize, 0, stream, p);
  }
};

// Lengths of packed rows in the workspace: what prepare_rows_kernel measures.
struct LengthSpace {
  float *squared, *excess;
  ImageLengths* image;
  LengthSpace(Workspace& space, int64_t num_rows, int num_images)
      : squared(space.take<float>(num_rows)),
        excess(space.take<float>(num_rows)),
        image(space.take<ImageLengths>(num_images)) {}
};

// Operands of packed rows in the workspace: what prepare_rows_kernel fills.
template <int kDim, bool kSplit>
struct OperandSpace {
  Half *high, *low;
  OperandSpace(Workspace& space, int64_t num_rows)
      : high(space.take<Half>(num_rows * kDim)), low(kSplit ? space.take<Half>(num_rows * kDim) : nullptr) {}
  Operand operand() const { return {high, low}; }

  // Fills them; measures lengths where `lengths` is given, for which the rows' images are needed.
  void prepare(const float* rows, int64_t num_rows, int64_t dim, Stream stream, const LengthSpace* lengths = nullptr,
               const int64_t* offsets = nullptr, int num_images = 0) const {
    PrepareRows p{rows, num_rows, dim, offsets, num_images, high, low, nullptr, nullptr, nullptr};
    if (lengths != nullptr) {
      p.squared = lengths->squared;
      p.excess = lengths->excess;
      p.image = lengths->image;
      fill_zero(p.image, num_images * sizeof(ImageLengths), stream);
    }
    launch(prepare_rows_kernel<kDim>, RowLanes<kDim>::grid(num_rows), kRowThreads, 0, stream, p);
  }
};

// Operands of points and sources, which are the points when blurring, and the lengths of the sources.
template <class Step, int kDim, bool kSplit>
void prepare_both(const Step& step, const OperandSpace<kDim, kSplit>& points, const OperandSpace<kDim, kSplit>& sources,
                  const LengthSpace& lengths, Stream stream) {
  if (!step.blurring) points.prepare(step.points, step.num_points, step.dim, stream);
  const OperandSpace<kDim, kSplit>& measured = step.blurring ? points : sources;
  measured.prepare(step.sources, step.num_sources, step.dim, stream, &lengths, step.source_offsets, step.num_images);
}

// Row tiles of height `height` that images of `num_rows` rows in all can need at most.
inline unsigned largest_tile_count(int64_t num_rows, int num_images, int height) {
  return unsigned(num_rows / height + num_images);
}

// Into how many thread blocks the partners of each row tile are divided: enough to fill the GPU, no more. It follows
// from shapes alone, so that equal shapes give equal sums.
inline unsigned split_count(unsigned row_tiles, int64_t num_partners, int num_images, int width, int processors) {
  const int64_t tiles = (num_partners / (num_images > 0 ? num_images : 1) + width - 1) / width;
  const int64_t wanted = (int64_t(kBlocksPerProcessor) * processors + row_tiles - 1) / (row_tiles > 0 ? row_tiles : 1);
  const int64_t splits = wanted < tiles / kTilesPerSplit ? wanted : tiles / kTilesPerSplit;
  return unsigned(splits > 1 ? splits : 1);
}

// Calls body(width, split) with the padded width of rows and whether they come in two parts, as compile-time constants.
template <int kValue>
struct Int {
  static constexpr int value = kValue;
};
template <class Body>
auto with_widths(int64_t dim, bool half, const Body& body) {
  const auto with = [&](auto width) { return half ? body(width, Int<0>{}) : body(width, Int<1>{}); };
  switch (padded_width(dim)) {
    case 8:
      return with(Int<8>{});
    case 16:
      return with(Int<16>{});
    case 32:
      return with(Int<32>{});
    case 64:
      return with(Int<64>{});
    case 128:
      return with(Int<128>{});
    default:
      return with(Int<256>{});
  }
}

template <class Body>
void with_every_width(const Body& body) {
  for (int64_t dim = 8; dim <= kLargestDim; dim *= 2) {
    for (bool half : {true, false}) with_widths(dim, half, body);
  }
}

template <class T, class Problem>
void append_resources(std::vector<KernelResources>& all, const char* name, void (*kernel)(Problem)) {
  const Footprint own = footprint_of(kernel, T::kThreads, T::kSharedBytes);
  all.push_back({name, T::kDim, !T::kSplit, T::kThreads, own.registers, T::kSharedBytes, own.spilled_bytes,
                 own.blocks_per_processor});
}

}  // namespace cuda
}  // namespace rpe
