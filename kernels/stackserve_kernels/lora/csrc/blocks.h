// The rows of a batch in blocks of one adapter each, and the two halves of the LoRA op on a block.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "lora.h"

namespace stackserve {

struct Block {
  const SliceWeights* slices;
  const int32_t* rows;
  int64_t count;
  int64_t width;   // floats of a row of hidden: all slices side by side
  int64_t offset;  // of its hidden, in floats
};

struct Batch {
  const Layer& layer;
  char* y;
  int64_t y_stride;
  const char* x;
  int64_t x_stride;
};

inline int64_t hidden_width(const Layer& layer, const SliceWeights& w) {
  return w.rank ? w.groups * (layer.kernels->element_bytes == 2 ? 2 : 1) : 0;
}

// Where a slice begins: its first column of y, and of a block's hidden.
inline int64_t first_column(const Layer& layer, int64_t slice) {
  int64_t column = 0;
  for (int64_t s = 0; s < slice; ++s) column += layer.out[s];
  return column;
}

inline int64_t first_hidden(const Layer& layer, const Block& block, int64_t slice) {
  int64_t at = 0;
  for (int64_t s = 0; s < slice; ++s) at += hidden_width(layer, block.slices[s]);
  return at;
}

// Ranks [first, last) of a slice; first is a multiple of LANES.
inline void shrink_block(const Batch& batch, const Block& block, int64_t slice, int64_t first,
                         int64_t last, float* hidden) {
  const Layer& layer = batch.layer;
  const SliceWeights& w = block.slices[slice];
  Rows<const char> x;
  x.count = block.count;
  for (int64_t i = 0; i < block.count; ++i) x.rows[i] = batch.x + block.rows[i] * batch.x_stride;
  float* target = hidden + first_hidden(layer, block, slice);
  for (int64_t rank = first; rank < last; rank += LANES) {
    const int64_t ranks = std::min<int64_t>(LANES, w.rank - rank);
    const char* a = static_cast<const char*>(w.a) + rank * layer.in * layer.kernels->element_bytes;
    layer.kernels->shrink(x, layer.in, a, ranks, w.scale, target + rank, block.width);
  }
  if (last < w.rank) return;
  const int64_t padding = hidden_width(layer, w) - w.rank;
  for (int64_t i = 0; padding && i < block.count; ++i)
    std::memset(target + i * block.width + w.rank, 0, padding * sizeof(float));
}

// Columns [first, last) of a slice; first is a multiple of LANES.
inline void expand_block(const Batch& batch, const Block& block, int64_t slice, int64_t first,
                         int64_t last, const float* hidden) {
  const Layer& layer = batch.layer;
  const SliceWeights& w = block.slices[slice];
  const int64_t column = first_column(layer, slice) * layer.kernels->element_bytes;
  Rows<char> y;
  y.count = block.count;
  for (int64_t i = 0; i < block.count; ++i)
    y.rows[i] = batch.y + block.rows[i] * batch.y_stride + column;
  layer.kernels->expand(y, hidden + first_hidden(layer, block, slice), block.width, w.b, w.groups,
                        first, last);
}

// Blocks of the rows [first_row, last_row) whose adapter touches this layer; bytes of their weights.
inline int64_t cut_into_blocks(const Layer& layer, const Plan& plan, int64_t first_row,
                               int64_t last_row, std::vector<Block>& blocks) {
  int64_t offset = 0, bytes = 0;
  blocks.clear();
  for (int64_t i = 0; i < plan.segments; ++i) {
    const SliceWeights* slices = layer.table + plan.slots[i] * layer.slices;
    int64_t width = 0, weights = 0;
    for (int64_t s = 0; s < layer.slices; ++s) {
      width += hidden_width(layer, slices[s]);
      weights += slices[s].rank * (layer.in + layer.out[s]) * layer.kernels->element_bytes;
    }
    if (!width) continue;
    const int32_t *begin = plan.order + plan.starts[i], *end = plan.order + plan.starts[i + 1];
    const int32_t* row = std::lower_bound(begin, end, first_row);
    const int32_t* last = std::lower_bound(row, end, last_row);
    if (row < last) bytes += weights;
    for (; row < last; row += BLOCK_ROWS) {
      const int64_t count = std::min<int64_t>(BLOCK_ROWS, last - row);
      blocks.push_back({slices, row, count, width, offset});
      offset += count * width;
    }
  }
  return bytes;
}

inline int64_t hidden_floats(const std::vector<Block>& blocks) {
  return blocks.empty() ? 0 : blocks.back().offset + BLOCK_ROWS * blocks.back().width;
}

}  // namespace stackserve
