// A base layer and the adapters of its rows in one pass, so that the output is added to while it is in
// the cache of the core that computed it.
//
// Few rows: the threads share the adapters' ranks, then the output columns. Many rows: each thread takes
// rows, and of them a few columns at a time.
#include <optional>

#include "blocks.h"
#include "threads.h"

namespace stackserve {
namespace {

constexpr int64_t FEW_ROWS = 256;
constexpr int64_t MOST_ROWS = 256;           // of a thread at a time; the weights are read once for each
constexpr int64_t CACHED_BYTES = 768 << 10;  // of x, beside weights and output in a core's cache
constexpr int64_t COLUMNS = 512;             // between the base's product and the adapters'
constexpr int64_t LARGE_OUTPUT = 16 << 20;   // bytes; goes to memory past the caches

struct Call {
  const Linear& base;
  const float* bias;
  const Batch* batch;  // null: no adapters
  const Plan* plan;
  char* y;
  int64_t y_stride;
  const char* x;
  int64_t x_stride;
};

// Rows whose x fits into a core's cache.
int64_t cached_rows(const Linear& base) {
  return std::max(BLOCK_ROWS, CACHED_BYTES / (base.in * 2) / BLOCK_ROWS * BLOCK_ROWS);
}

void multiply(const Call& call, int64_t row, int64_t rows, int64_t first, int64_t last) {
  multiply_amx(call.base, call.bias, call.x + row * call.x_stride, call.x_stride, call.y + row * call.y_stride,
               call.y_stride, rows, first, last);
}

void expand_columns(const Call& call, const std::vector<Block>& blocks, const float* hidden,
                    int64_t first, int64_t last) {
  const Layer& layer = call.batch->layer;
  for (const Block& block : blocks) {
    int64_t column = 0;
    for (int64_t s = 0; s < layer.slices; column += layer.out[s++]) {
      const int64_t from = std::max<int64_t>(0, first - column);
      const int64_t to = std::min(layer.out[s], last - column);
      if (block.slices[s].rank && from < to)
        expand_block(*call.batch, block, s, from, to, hidden + block.offset);
    }
  }
}

void run_columns(const Call& call, int64_t rows, int64_t threads) {
  static thread_local std::vector<Block> own;
  own.clear();
  if (call.batch) cut_into_blocks(call.batch->layer, *call.plan, 0, rows, own);
  const std::vector<Block>& blocks = own;  // the caller's, for all threads
  float* hidden = scratch(hidden_floats(blocks));
  const int64_t slices = call.batch ? call.batch->layer.slices : 0;
  const int64_t cached = cached_rows(call.base);
  const int64_t wanted = call.base.out / (threads * 4);
  const int64_t chunk = std::max<int64_t>(64, (wanted + 31) / 32 * 32);
  Queue shrinks(blocks.size() * slices), columns((call.base.out + chunk - 1) / chunk);
  auto work = [&] {
    for (int64_t number; shrinks.take(number); shrinks.finish()) {
      const Block& block = blocks[number / slices];
      const int64_t s = number % slices;
      shrink_block(*call.batch, block, s, 0, block.slices[s].rank, hidden + block.offset);
    }
    for (int64_t number; columns.take(number);) {
      const int64_t first = number * chunk, last = std::min(call.base.out, first + chunk);
      for (int64_t row = 0; row < rows; row += cached)
        multiply(call, row, std::min(cached, rows - row), first, last);
      if (blocks.empty()) continue;
      shrinks.wait_until_all_are_finished();
      expand_columns(call, blocks, hidden, first, last);
    }
  };
  on_all_threads(threads, work);
}

// Rows [row, row + count) in a buffer that stays in the cache, a few columns at a time, and from there to
// memory. Storing to `y` itself would read each of its lines from memory first.
void multiply_large(const Call& call, const std::vector<Block>& blocks, const float* hidden,
                    int64_t row, int64_t count) {
  static thread_local std::vector<float> memory(MOST_ROWS * COLUMNS / 2);
  char* buffer = reinterpret_cast<char*>(memory.data());
  const int64_t stride = COLUMNS * 2;
  for (int64_t first = 0; first < call.base.out; first += COLUMNS) {
    const int64_t last = std::min(call.base.out, first + COLUMNS);
    char* origin = buffer - row * stride - first * 2;  // where y[0][0] would be
    Call part = call;
    part.y = origin;
    part.y_stride = stride;
    multiply(part, row, count, first, last);
    if (!blocks.empty()) {
      const Batch batch = {call.batch->layer, origin, stride, call.x, call.x_stride};
      part.batch = &batch;
      expand_columns(part, blocks, hidden, first, last);
    }
    store_past_caches(buffer, stride, call.y + row * call.y_stride + first * 2, call.y_stride, count,
                      (last - first) * 2);
  }
}

void run_rows(const Call& call, int64_t rows, int64_t threads) {
  const int64_t fair = (rows / (threads * 2) + BLOCK_ROWS) / BLOCK_ROWS * BLOCK_ROWS;
  const int64_t step = std::min({fair, cached_rows(call.base), MOST_ROWS});
  const bool large = rows * call.y_stride > LARGE_OUTPUT;
  Queue parts((rows + step - 1) / step);
  auto work = [&] {
    static thread_local std::vector<Block> blocks;
    for (int64_t number; parts.take(number);) {
      const int64_t row = number * step, count = std::min(step, rows - row);
      blocks.clear();
      if (call.batch) cut_into_blocks(call.batch->layer, *call.plan, row, row + count, blocks);
      float* hidden = scratch(hidden_floats(blocks));
      for (const Block& block : blocks)
        for (int64_t s = 0; s < call.batch->layer.slices; ++s)
          shrink_block(*call.batch, block, s, 0, block.slices[s].rank, hidden + block.offset);
      if (large) {
        multiply_large(call, blocks, hidden, row, count);
        continue;
      }
      for (int64_t first = 0; first < call.base.out; first += COLUMNS) {
        const int64_t last = std::min(call.base.out, first + COLUMNS);
        multiply(call, row, count, first, last);
        if (!blocks.empty()) expand_columns(call, blocks, hidden, first, last);
      }
    }
  };
  on_all_threads(threads, work);
}

}  // namespace
}  // namespace stackserve

using namespace stackserve;

// y = x Wᵀ + bias, and with a layer and a plan the delta of each row's adapter. Strides in bytes.
EXPORTED void stackserve_linear(const Linear* base, const float* bias, const Layer* layer,
                                const Plan* plan, void* y, int64_t y_stride, const void* x, int64_t x_stride, int64_t rows) {
  char* target = static_cast<char*>(y);
  const char* source = static_cast<const char*>(x);
  std::optional<Batch> batch;
  if (layer && plan && plan->segments) batch.emplace(Batch{*layer, target, y_stride, source, x_stride});
  const Call call = {*base, bias, batch ? &*batch : nullptr, plan, target, y_stride, source, x_stride};
  const int64_t threads = num_threads();
  rows <= FEW_ROWS ? run_columns(call, rows, threads) : run_rows(call, rows, threads);
}
