// What the AMX kernels share: the shape of a tile, and the configuration of the tile registers.
#pragma once

#include <cstdint>

#include "lora.h"

namespace stackserve {

constexpr int64_t TILE_ROWS = 16, TILE_K = 32, TILE_BYTES = 1024;

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t column_bytes[16] = {};
  uint8_t rows[16] = {};
  void set(int tile, int64_t row_count, int64_t bytes) {
    rows[tile] = uint8_t(row_count);
    column_bytes[tile] = uint16_t(bytes);
  }
};

}  // namespace stackserve
