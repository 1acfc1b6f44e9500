// Farthest points and nearest rows: workspace, phases, and the choice of each seed (see seeding.h).
#include "seeding.h"

#include "select.h"
#include "workspace.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace rpe {

namespace {

template <class T>
struct Session {
  static constexpr T kInfinity = std::numeric_limits<T>::infinity();

  FarthestPoints<T> p;
  TaskPool& pool;
  const SeedingKernels<T>& kernels = seeding_kernels<T>();
  BlockPlan plan;
  std::shared_ptr<void> memory;
  ScratchPool scratch;
  std::vector<char> open;  // images that take part in the next round

  Session(const FarthestPoints<T>& given, const int64_t* offsets, int64_t num_images, TaskPool& task_pool)
      : p(given),
        pool(task_pool),
        plan(make_plan(offsets, num_images, choose_block_rows(offsets[num_images]))),
        memory(pool.allocate(bind_workspace(nullptr))),
        scratch(pool, kRowQuantum * p.dim * int64_t(sizeof(T))),
        open(size_t(num_images), 1) {
    bind_workspace(memory.get());
    p.blocks = plan.blocks.data();
  }

  size_t bind_workspace(void* where) {
    Workspace workspace(where);
    const int64_t rows = plan.padded_rows(), blocks = plan.num_blocks(), images = plan.num_images();
    p.seeds = workspace.take<T>(images * p.num_seeds * p.dim);
    p.nearest = workspace.take<T>(rows);
    p.smallest = workspace.take<T>(rows / kRowQuantum);
    p.seen = workspace.take<int64_t>(rows / kRowQuantum);
    p.block_smallest = workspace.take<T>(blocks);
    p.bound = workspace.take<T>(images);
    p.block_sum = workspace.take<double>(blocks * p.dim);
    return workspace.bytes();
  }

  const T* smallest_block(int64_t image) const {
    return std::min_element(p.block_smallest + plan.first_block[size_t(image)],
                            p.block_smallest + plan.first_block[size_t(image) + 1]);
  }

  // After it the smallest cosine of every open image is current wherever it occurs.
  void refresh(int64_t num_known) {
    const int64_t num_images = plan.num_images();
    std::fill(p.bound, p.bound + num_images, kInfinity);
    pool.run(num_images, [&](int64_t image) {
      if (open[size_t(image)]) kernels.refresh(p, smallest_block(image) - p.block_smallest, num_known, scratch.mine());
    });
    pool.run(plan.num_blocks(), [&](int64_t block) {
      const int64_t image = plan.blocks[size_t(block)].image;
      if (open[size_t(image)]) kernels.refresh(p, block, num_known, scratch.mine());
    });
  }

  // The first row, in padded row space, with the smallest cosine of its image; below 0 where no row can be chosen.
  int64_t farthest(int64_t image) const {
    const T* least = smallest_block(image);
    if (*least == kInfinity) return -1;
    const Block& block = plan.blocks[size_t(least - p.block_smallest)];
    return std::find(p.nearest + block.row, p.nearest + block.row + block.rows, *least) - p.nearest;
  }

  void choose(int64_t image, int64_t number, int64_t row) {
    const int64_t first = plan.first_block[size_t(image)], first_row = plan.first_row[size_t(image)];
    const T* point = p.points + (plan.blocks[size_t(first)].source + row - first_row) * p.dim;
    std::copy(point, point + p.dim, p.seeds + (image * p.num_seeds + number) * p.dim);
    p.index[image * p.num_seeds + number] = row - first_row;
    p.nearest[row] = kInfinity;
    const int64_t block = first + (row - first_row) / plan.blocks[size_t(first)].rows;
    const T* chunk = p.nearest + row / kRowQuantum * kRowQuantum;
    p.smallest[row / kRowQuantum] = *std::min_element(chunk, chunk + kRowQuantum);
    const T* chunks = p.smallest + plan.blocks[size_t(block)].row / kRowQuantum;
    p.block_smallest[block] = *std::min_element(chunks, chunks + plan.blocks[size_t(block)].rows / kRowQuantum);
  }

  void choose_first() {
    for (int64_t image = 0; image < plan.num_images(); ++image) {
      if (!open[size_t(image)]) continue;
      std::vector<double> sum(size_t(p.dim), 0.0);
      for (int64_t b = plan.first_block[size_t(image)]; b < plan.first_block[size_t(image) + 1]; ++b) {
        for (int64_t d = 0; d < p.dim; ++d) sum[size_t(d)] += p.block_sum[b * p.dim + d];
      }
      std::copy(sum.begin(), sum.end(), p.seeds + image * p.num_seeds * p.dim);
    }
    refresh(1);
  }

  void run() {
    const int64_t num_images = plan.num_images();
    pool.run(plan.num_blocks(), [&](int64_t block) {
      kernels.survey(p, block);
      kernels.reset(p, block);
    });
    std::vector<int64_t> start(size_t(num_images), 0);
    for (int64_t image = 0; image < num_images; ++image) {
      std::fill_n(p.index + image * p.num_seeds, p.num_seeds, 0);
      start[size_t(image)] = plan.first_row[size_t(image)] + std::max<int64_t>(p.first[image], 0);
      open[size_t(image)] = plan.first_block[size_t(image)] < plan.first_block[size_t(image) + 1] && p.first[image] < 0;
    }
    choose_first();
    for (int64_t image = 0; image < num_images; ++image) {
      if (open[size_t(image)]) start[size_t(image)] = std::max(farthest(image), start[size_t(image)]);
      open[size_t(image)] = plan.first_block[size_t(image)] < plan.first_block[size_t(image) + 1];
    }
    pool.run(plan.num_blocks(), [&](int64_t block) { kernels.reset(p, block); });
    for (int64_t image = 0; image < num_images; ++image) {
      if (open[size_t(image)]) choose(image, 0, start[size_t(image)]);
    }
    for (int64_t number = 1; number < p.num_seeds; ++number) {
      refresh(number);
      for (int64_t image = 0; image < num_images; ++image) {
        if (!open[size_t(image)]) continue;
        const int64_t row = farthest(image);
        open[size_t(image)] = row >= 0 && p.nearest[row] < p.covered;
        if (open[size_t(image)]) {
          choose(image, number, row);
        } else {
          int64_t* index = p.index + image * p.num_seeds;
          std::fill(index + number, index + p.num_seeds, index[0]);
        }
      }
    }
  }
};

}  // namespace

template <class T>
void run_farthest_points(FarthestPoints<T> problem, const int64_t* offsets, int64_t num_images, TaskPool& pool) {
  Session<T>(problem, offsets, num_images, pool).run();
}

template <class T>
void run_nearest_rows(NearestRows<T> problem, const int64_t* offsets, int64_t num_images, TaskPool& pool) {
  const SeedingKernels<T>& kernels = seeding_kernels<T>();
  const BlockPlan plan = make_plan(offsets, num_images, choose_block_rows(offsets[num_images]));
  problem.blocks = plan.blocks.data();
  const ScratchPool scratch(pool, kRowQuantum * problem.dim * int64_t(sizeof(T)));
  pool.run(plan.num_blocks(), [&](int64_t block) { kernels.nearest(problem, block, scratch.mine()); });
}

#define RPE_INSTANTIATE(T)                                                                     \
  template void run_farthest_points<T>(FarthestPoints<T>, const int64_t*, int64_t, TaskPool&); \
  template void run_nearest_rows<T>(NearestRows<T>, const int64_t*, int64_t, TaskPool&);
RPE_INSTANTIATE(float)
RPE_INSTANTIATE(double)
#undef RPE_INSTANTIATE

}  // namespace rpe
