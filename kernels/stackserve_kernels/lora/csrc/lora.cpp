// The LoRA op over a batch: which thread computes what, and the C functions that Python calls.
//
// The rows of a segment are cut into blocks of at most BLOCK_ROWS. With many blocks (prefill) a thread
// takes a whole block, so that hidden values never leave its cache. With few (decode) the threads share
// the ranks of all blocks, and when those are complete, the output columns. Neither changes a sum.
#include "lora.h"

#include "blocks.h"
#include "cpu_features.h"
#include "threads.h"

namespace stackserve {

ParallelFor torch_parallel_for = nullptr;
NumThreads torch_num_threads = nullptr;

namespace {

constexpr int64_t BLOCKS_FOR_EACH_THREAD = 4;  // from so many on, whole blocks balance well
constexpr int64_t SMALL_BYTES = 32 << 10;      // below, waking a thread costs more than it saves

struct Task {
  int32_t block, slice;
  int64_t first, last;  // ranks, or output columns
};

void run_whole_blocks(const Batch& batch, const std::vector<Block>& blocks, int64_t threads) {
  Queue queue(blocks.size());
  auto work = [&] {
    for (int64_t number; queue.take(number);) {
      const Block& block = blocks[number];
      float* hidden = scratch(BLOCK_ROWS * block.width);
      for (int64_t s = 0; s < batch.layer.slices; ++s) {
        if (!block.slices[s].rank) continue;
        shrink_block(batch, block, s, 0, block.slices[s].rank, hidden);
        expand_block(batch, block, s, 0, batch.layer.out[s], hidden);
      }
    }
  };
  on_all_threads(threads, work);
}

void split_tasks(const Layer& layer, const std::vector<Block>& blocks, int64_t threads,
                 std::vector<Task>& shrinks, std::vector<Task>& expands) {
  const int64_t columns = first_column(layer, layer.slices) * int64_t(blocks.size());
  const int64_t chunk = std::max<int64_t>(128, (columns / (threads * 4) + 63) / 64 * 64);
  shrinks.clear();
  expands.clear();
  for (int32_t b = 0; b < int32_t(blocks.size()); ++b)
    for (int32_t s = 0; s < layer.slices; ++s) {
      const int64_t rank = blocks[b].slices[s].rank;
      for (int64_t first = 0; first < rank; first += LANES)
        shrinks.push_back({b, s, first, std::min(rank, first + LANES)});
      for (int64_t first = 0; rank && first < layer.out[s]; first += chunk)
        expands.push_back({b, s, first, std::min(layer.out[s], first + chunk)});
    }
}

void run_in_two_phases(const Batch& batch, const std::vector<Block>& blocks, int64_t threads) {
  static thread_local std::vector<Task> own_shrinks, own_expands;
  split_tasks(batch.layer, blocks, threads, own_shrinks, own_expands);
  const std::vector<Task>&shrinks = own_shrinks, &expands = own_expands;  // the caller's, for all
  float* hidden = scratch(hidden_floats(blocks));
  Queue first(shrinks.size()), second(expands.size());
  auto work = [&] {
    for (int64_t number; first.take(number); first.finish()) {
      const Task& t = shrinks[number];
      const Block& block = blocks[t.block];
      shrink_block(batch, block, t.slice, t.first, t.last, hidden + block.offset);
    }
    first.wait_until_all_are_finished();
    for (int64_t number; second.take(number);) {
      const Task& t = expands[number];
      const Block& block = blocks[t.block];
      expand_block(batch, block, t.slice, t.first, t.last, hidden + block.offset);
    }
  };
  on_all_threads(threads, work);
}

const Kernels* kernels_of_level(int64_t level, bool bf16) {
  if (!bf16) return level >= 1 ? &AVX512_FP32 : &AVX2_FP32;
  const Kernels* by_level[] = {&AVX2_BF16, &AVX512_BF16, &AVX512_DOT_BF16, &AMX_BF16};
  return by_level[level];
}

}  // namespace
}  // namespace stackserve

using namespace stackserve;

// torch's C functions torch_parallel_for and torch_get_num_threads.
EXPORTED void stackserve_use_threads(void* parallel_for, void* num_threads) {
  torch_parallel_for = reinterpret_cast<ParallelFor>(parallel_for);
  torch_num_threads = reinterpret_cast<NumThreads>(num_threads);
}

// 0 AVX2, 1 AVX-512, 2 with dot products of bf16, 3 AMX; -1 when there is not even AVX2.
EXPORTED int64_t stackserve_best_level() {
  static const CpuFeatures cpu = detect_cpu();
  return cpu.amx ? 3 : cpu.avx512_bf16 ? 2 : cpu.avx512 ? 1 : cpu.avx2 ? 0 : -1;
}

// The kernels of the highest level up to `level` that take `in` features, or null.
EXPORTED const void* stackserve_lora_kernels(int64_t level, int64_t bf16, int64_t in) {
  for (level = std::min(level, stackserve_best_level()); level >= 0; --level) {
    const Kernels* kernels = kernels_of_level(level, bf16);
    if (in % kernels->in_multiple == 0) return kernels;
  }
  return nullptr;
}

// y[row] += the delta of the row's adapter, for the rows of the plan. Strides in bytes.
EXPORTED void stackserve_lora_add(const Layer* layer, void* y, int64_t y_stride, const void* x,
                                  int64_t x_stride, const Plan* plan) {
  static thread_local std::vector<Block> own;
  const int64_t bytes = cut_into_blocks(*layer, *plan, 0, INT32_MAX, own);
  const std::vector<Block>& blocks = own;  // the caller's, for all threads
  if (blocks.empty()) return;
  const Batch batch = {*layer, static_cast<char*>(y), y_stride, static_cast<const char*>(x), x_stride};
  const bool small = bytes < SMALL_BYTES && blocks.size() == 1;
  const int64_t threads = small ? 1 : num_threads();
  if (threads == 1 || int64_t(blocks.size()) >= BLOCKS_FOR_EACH_THREAD * threads)
    run_whole_blocks(batch, blocks, threads);
  else
    run_in_two_phases(batch, blocks, threads);
}
