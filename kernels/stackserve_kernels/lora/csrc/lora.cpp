// The LoRA op over a batch: which thread computes what, and the C functions that Python calls.
//
// The rows of a segment are cut into blocks of at most BLOCK_ROWS. With many blocks (prefill) a thread
// takes a whole block, so that hidden values never leave its cache. With few (decode) the threads share
// the ranks of all blocks, and when those are complete, the output columns. Neither changes a sum.
#include "lora.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "cpu_features.h"

namespace stackserve {
namespace {

using ParallelFor = int32_t (*)(int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void*), void*);
using NumThreads = int32_t (*)(uint32_t*);

ParallelFor torch_parallel_for = nullptr;  // torch's own threads; without them the caller computes alone
NumThreads torch_num_threads = nullptr;

constexpr int64_t BLOCKS_FOR_EACH_THREAD = 4;  // from so many on, whole blocks balance well
constexpr int64_t SMALL_BYTES = 32 << 10;      // below, waking a thread costs more than it saves

struct Block {
  const SliceWeights* slices;
  const int32_t* rows;
  int64_t count;
  int64_t width;  // floats of a row of hidden: all slices side by side
  int64_t offset;  // of its hidden, in floats
};

struct Task {
  int32_t block, slice;
  int64_t first, last;  // ranks, or output columns
};

struct Batch {
  const Layer& layer;
  char* y;
  int64_t y_stride;
  const char* x;
  int64_t x_stride;
  std::vector<Block>& blocks;
  int64_t bytes;  // of the weights in use
};

int64_t pairs_or_ones(const Layer& layer) { return layer.kernels->element_bytes == 2 ? 2 : 1; }

int64_t hidden_width(const Layer& layer, const SliceWeights& w) {
  return w.rank ? w.groups * pairs_or_ones(layer) : 0;
}

// The slice's first column of y.
int64_t first_column(const Layer& layer, int64_t slice) {
  int64_t column = 0;
  for (int64_t s = 0; s < slice; ++s) column += layer.out[s];
  return column;
}

int64_t first_hidden(const Layer& layer, const Block& block, int64_t slice) {
  int64_t at = 0;
  for (int64_t s = 0; s < slice; ++s) at += hidden_width(layer, block.slices[s]);
  return at;
}

void shrink_block(const Batch& batch, const Block& block, const Task& task, float* hidden) {
  const Layer& layer = batch.layer;
  const SliceWeights& w = block.slices[task.slice];
  Rows<const char> x;
  x.count = block.count;
  for (int64_t i = 0; i < block.count; ++i) x.rows[i] = batch.x + block.rows[i] * batch.x_stride;
  float* slice = hidden + first_hidden(layer, block, task.slice);
  for (int64_t rank = task.first; rank < task.last; rank += LANES) {
    const int64_t ranks = std::min(LANES, w.rank - rank);
    const char* a = static_cast<const char*>(w.a) + rank * layer.in * layer.kernels->element_bytes;
    layer.kernels->shrink(x, layer.in, a, ranks, w.scale, slice + rank, block.width);
  }
  if (task.last < w.rank) return;
  const int64_t padding = hidden_width(layer, w) - w.rank;
  for (int64_t i = 0; padding && i < block.count; ++i)
    std::memset(slice + i * block.width + w.rank, 0, padding * sizeof(float));
}

void expand_block(const Batch& batch, const Block& block, const Task& task, const float* hidden) {
  const Layer& layer = batch.layer;
  const SliceWeights& w = block.slices[task.slice];
  const int64_t column = first_column(layer, task.slice) * layer.kernels->element_bytes;
  Rows<char> y;
  y.count = block.count;
  for (int64_t i = 0; i < block.count; ++i)
    y.rows[i] = batch.y + block.rows[i] * batch.y_stride + column;
  layer.kernels->expand(y, hidden + first_hidden(layer, block, task.slice), block.width, w.b,
                        w.groups, task.first, task.last);
}

// Grows to the largest that a thread has needed: at most BLOCK_ROWS rows of hidden a block in use.
float* scratch(int64_t floats) {
  static thread_local std::vector<float> memory;
  if (int64_t(memory.size()) < floats) memory.resize(floats);
  return memory.data();
}

template <typename Work>
void on_all_threads(int64_t threads, Work& work) {
  if (threads < 2) return work();
  auto call = [](int64_t, int64_t, void* context) { (*static_cast<Work*>(context))(); };
  torch_parallel_for(0, threads, 1, call, &work);
}

void run_whole_blocks(const Batch& batch, int64_t threads) {
  std::atomic<int64_t> next{0};
  auto work = [&] {
    for (int64_t b; (b = next.fetch_add(1, std::memory_order_relaxed)) < int64_t(batch.blocks.size());) {
      const Block& block = batch.blocks[b];
      float* hidden = scratch(BLOCK_ROWS * block.width);
      for (int32_t s = 0; s < batch.layer.slices; ++s) {
        if (!block.slices[s].rank) continue;
        shrink_block(batch, block, {0, s, 0, block.slices[s].rank}, hidden);
        expand_block(batch, block, {0, s, 0, batch.layer.out[s]}, hidden);
      }
    }
  };
  on_all_threads(threads, work);
}

void split_tasks(const Batch& batch, int64_t threads, std::vector<Task>& shrinks,
                 std::vector<Task>& expands) {
  const Layer& layer = batch.layer;
  int64_t columns = 0;
  for (int64_t s = 0; s < layer.slices; ++s) columns += layer.out[s];
  const int64_t wanted = columns * int64_t(batch.blocks.size()) / (threads * 4);
  const int64_t chunk = std::max<int64_t>(128, (wanted + 63) / 64 * 64);
  shrinks.clear();
  expands.clear();
  for (int32_t b = 0; b < int32_t(batch.blocks.size()); ++b)
    for (int32_t s = 0; s < layer.slices; ++s) {
      const int64_t rank = batch.blocks[b].slices[s].rank;
      for (int64_t first = 0; first < rank; first += LANES)
        shrinks.push_back({b, s, first, std::min(rank, first + LANES)});
      for (int64_t first = 0; rank && first < layer.out[s]; first += chunk)
        expands.push_back({b, s, first, std::min(layer.out[s], first + chunk)});
    }
}

void run_in_two_phases(const Batch& batch, int64_t threads) {
  static thread_local std::vector<Task> shrinks, expands;
  split_tasks(batch, threads, shrinks, expands);
  const Block& end = batch.blocks.back();
  float* hidden = scratch(end.offset + BLOCK_ROWS * end.width);
  const std::vector<Task>&first = shrinks, &second = expands;  // of the caller, for every thread
  std::atomic<int64_t> next_shrink{0}, done{0}, next_expand{0};
  auto work = [&] {
    for (int64_t t; (t = next_shrink.fetch_add(1)) < int64_t(first.size());) {
      const Block& block = batch.blocks[first[t].block];
      shrink_block(batch, block, first[t], hidden + block.offset);
      done.fetch_add(1, std::memory_order_release);
    }
    while (done.load(std::memory_order_acquire) < int64_t(first.size())) __builtin_ia32_pause();
    for (int64_t t; (t = next_expand.fetch_add(1)) < int64_t(second.size());) {
      const Block& block = batch.blocks[second[t].block];
      expand_block(batch, block, second[t], hidden + block.offset);
    }
  };
  on_all_threads(threads, work);
}

// Blocks of the segments whose adapter touches this layer; the bytes of their weights.
int64_t cut_into_blocks(const Layer& layer, const Plan& plan, std::vector<Block>& blocks) {
  int64_t offset = 0, bytes = 0;
  blocks.clear();
  for (int64_t i = 0; i < plan.segments; ++i) {
    const SliceWeights* slices = layer.table + plan.slots[i] * layer.slices;
    int64_t width = 0;
    for (int64_t s = 0; s < layer.slices; ++s) {
      width += hidden_width(layer, slices[s]);
      bytes += slices[s].rank * (layer.in + layer.out[s]) * layer.kernels->element_bytes;
    }
    if (!width) continue;
    for (int64_t row = plan.starts[i]; row < plan.starts[i + 1]; row += BLOCK_ROWS) {
      const int64_t count = std::min<int64_t>(BLOCK_ROWS, plan.starts[i + 1] - row);
      blocks.push_back({slices, plan.order + row, count, width, offset});
      offset += count * width;
    }
  }
  return bytes;
}

const Kernels* best_kernels(int64_t level, bool bf16) {
  if (!bf16) return level >= 1 ? &AVX512_FP32 : &AVX2_FP32;
  const Kernels* by_level[] = {&AVX2_BF16, &AVX512_BF16, &AVX512_DOT_BF16, &AMX_BF16};
  return by_level[level];
}

}  // namespace
}  // namespace stackserve

using namespace stackserve;

#define EXPORTED extern "C" __attribute__((visibility("default")))

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
    const Kernels* kernels = best_kernels(level, bf16);
    if (in % kernels->in_multiple == 0) return kernels;
  }
  return nullptr;
}

// Strides in bytes.
EXPORTED void stackserve_lora_add(const Layer* layer, void* y, int64_t y_stride, const void* x,
                                  int64_t x_stride, const Plan* plan) {
  static thread_local std::vector<Block> blocks;
  const int64_t bytes = cut_into_blocks(*layer, *plan, blocks);
  if (blocks.empty()) return;
  const Batch batch = {*layer,   static_cast<char*>(y), y_stride, static_cast<const char*>(x),
                       x_stride, blocks,                bytes};
  uint32_t threads = 1;
  const bool small = bytes < SMALL_BYTES && blocks.size() == 1;
  if (torch_parallel_for && torch_num_threads && !small) torch_num_threads(&threads);
  if (int64_t(blocks.size()) >= BLOCKS_FOR_EACH_THREAD * threads || threads == 1)
    run_whole_blocks(batch, threads);
  else
    run_in_two_phases(batch, threads);
}
