// AMX: products of tiles of 16 rows by 32 bf16. The packed weights are tiles as they lie in memory, so
// one row costs no more than reading them, and many rows run at the speed of a large product.
#include <immintrin.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "tiles.h"

namespace stackserve {
namespace {

constexpr int64_t AHEAD = 4096;  // bytes
constexpr int64_t MOST_K_TILES = MOST_GROUPS / 16;

// The rows at one distance, as a tile is loaded; rows that are not are copied together.
struct Strided {
  const char* first;
  int64_t stride;
};

Strided strided(const Rows<const char>& x, int64_t bytes) {
  bool even = true;
  const int64_t stride = x.count > 1 ? x.rows[1] - x.rows[0] : bytes;
  for (int64_t i = 2; i < x.count; ++i) even &= x.rows[i] - x.rows[i - 1] == stride;
  if (even) return {x.rows[0], stride};
  static thread_local char* copy = nullptr;
  static thread_local int64_t size = 0;
  if (size < BLOCK_ROWS * bytes) {
    size = BLOCK_ROWS * bytes;
    std::free(copy);
    copy = static_cast<char*>(std::aligned_alloc(64, (size + 63) / 64 * 64));
  }
  for (int64_t i = 0; i < x.count; ++i) std::memcpy(copy + i * bytes, x.rows[i], bytes);
  return {copy, bytes};
}

// Weights are read once, in order; the CPU's own prefetching stops at each page of 4 KiB, this does not.
inline void prefetch_ahead(const char* at, int64_t bytes) {
  for (int64_t line = 0; line < bytes; line += 64) _mm_prefetch(at + AHEAD + line, _MM_HINT_T0);
}

// Tiles: 0, 1 and 2, 3 the sums of the first and second sixteen rows, over even and odd tiles of the
// input features; 4, 5 x; 6 weights.
void shrink(const Rows<const char>& x, int64_t in, const void* a, int64_t ranks, float scale,
            float* hidden, int64_t ld) {
  const int64_t upper = std::min(x.count, TILE_ROWS), lower = x.count - upper;
  const int64_t w_stride = ranks * 4, w_tile = 16 * w_stride;
  TileConfig config;
  for (int tile : {0, 1}) config.set(tile, upper, w_stride);
  for (int tile : {2, 3}) config.set(tile, std::max<int64_t>(lower, 1), w_stride);
  config.set(4, upper, 64);
  config.set(5, std::max<int64_t>(lower, 1), 64);
  config.set(6, 16, w_stride);
  _tile_loadconfig(&config);
  const auto [first, stride] = strided(x, in * 2);
  const char* second = first + TILE_ROWS * stride;
  const char* weights = static_cast<const char*>(a);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const int64_t tiles = in / TILE_K;
  for (int64_t t = 0; t < tiles; t += 2) {
    prefetch_ahead(weights + t * w_tile, 2 * w_tile);
    _tile_loadd(6, weights + t * w_tile, w_stride);
    _tile_loadd(4, first + t * 64, stride);
    _tile_dpbf16ps(0, 4, 6);
    if (lower) {
      _tile_loadd(5, second + t * 64, stride);
      _tile_dpbf16ps(2, 5, 6);
    }
    if (t + 1 == tiles) break;
    _tile_loadd(6, weights + (t + 1) * w_tile, w_stride);
    _tile_loadd(4, first + (t + 1) * 64, stride);
    _tile_dpbf16ps(1, 4, 6);
    if (lower) {
      _tile_loadd(5, second + (t + 1) * 64, stride);
      _tile_dpbf16ps(3, 5, 6);
    }
  }
  alignas(64) float even[BLOCK_ROWS][LANES], odd[BLOCK_ROWS][LANES];
  _tile_stored(0, even, 64);
  _tile_stored(1, odd, 64);
  if (lower) {
    _tile_stored(2, even[TILE_ROWS], 64);
    _tile_stored(3, odd[TILE_ROWS], 64);
  }
  _tile_release();
  const __mmask16 mask = __mmask16((1u << ranks) - 1);
  for (int64_t i = 0; i < x.count; ++i) {
    __m512 sum = _mm512_add_ps(_mm512_load_ps(even[i]), _mm512_load_ps(odd[i]));
    _mm512_mask_storeu_ps(hidden + i * ld, mask, _mm512_mul_ps(sum, _mm512_set1_ps(scale)));
  }
}

// hidden as the sum of two bf16, high and low: tiles of [rows][pairs][2], one for each 16 pairs.
struct SplitHidden {
  alignas(64) uint16_t high[MOST_K_TILES][BLOCK_ROWS][TILE_K];
  alignas(64) uint16_t low[MOST_K_TILES][BLOCK_ROWS][TILE_K];
};

void split(const float* hidden, int64_t ld, int64_t rows, int64_t width, SplitHidden& out) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t k = 0; k < width; k += LANES) {
      const __mmask16 mask = __mmask16(width - k >= LANES ? 0xffff : (1u << (width - k)) - 1);
      __m512 value = _mm512_maskz_loadu_ps(mask, hidden + i * ld + k);
      __m256i high = (__m256i)_mm512_cvtneps_pbh(value);
      __m512 kept = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
      __m256i low = (__m256i)_mm512_cvtneps_pbh(_mm512_sub_ps(value, kept));
      _mm256_store_si256((__m256i*)&out.high[k / TILE_K][i][k % TILE_K], high);
      _mm256_store_si256((__m256i*)&out.low[k / TILE_K][i][k % TILE_K], low);
    }
}

// The sums of two blocks of outputs, which wait to be added to y while the next two are computed.
struct Sums {
  alignas(64) float values[2][BLOCK_ROWS][LANES];
};

__m512 widen(__m256i bf16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16));
}

void add_lanes(char* y, const float* sum, int64_t columns) {
  const __mmask16 mask = __mmask16(columns >= LANES ? 0xffff : (1u << columns) - 1);
  __m256i old = _mm256_maskz_loadu_epi16(mask, y);
  __m256bh rounded = _mm512_cvtneps_pbh(_mm512_add_ps(widen(old), _mm512_load_ps(sum)));
  _mm256_mask_storeu_epi16(y, mask, (__m256i)rounded);
}

void add_sums(const Rows<char>& y, const Sums& sums, int64_t column, int64_t last) {
  for (int64_t i = 0; i < y.count; ++i) {
    char* row = y.rows[i] + column * 2;
    if (last - column >= 2 * LANES) {  // whole cache lines
      const __m512i old = _mm512_loadu_si512(row);
      const __m512 first = widen(_mm512_castsi512_si256(old));
      const __m512 second = widen(_mm512_extracti64x4_epi64(old, 1));
      const __m512bh rounded =
          _mm512_cvtne2ps_pbh(_mm512_add_ps(second, _mm512_load_ps(sums.values[1][i])),
                              _mm512_add_ps(first, _mm512_load_ps(sums.values[0][i])));
      _mm512_storeu_si512(row, (__m512i)rounded);
      continue;
    }
    add_lanes(row, sums.values[0][i], last - column);
    if (last - column > LANES) add_lanes(row + LANES * 2, sums.values[1][i], last - column - LANES);
  }
}

// Tiles: 0, 1 the sums of the first and second sixteen rows; 2 weights; 3, 4 and 5, 6 the high and
// low parts of hidden.
void load_hidden(const SplitHidden& h, int64_t tile, bool lower) {
  _tile_loadd(3, h.high[tile], 64);
  _tile_loadd(4, h.low[tile], 64);
  if (!lower) return;
  _tile_loadd(5, h.high[tile][TILE_ROWS], 64);
  _tile_loadd(6, h.low[tile][TILE_ROWS], 64);
}

void expand(const Rows<char>& y, const float* hidden, int64_t ld, const void* b, int64_t groups,
            int64_t first, int64_t last) {
  const int64_t upper = std::min(y.count, TILE_ROWS), lower = y.count - upper;
  const int64_t pairs = std::min<int64_t>(groups, 16), k_tiles = (groups + 15) / 16;
  TileConfig config;
  config.set(0, upper, 64);
  config.set(1, std::max<int64_t>(lower, 1), 64);
  config.set(2, pairs, 64);
  for (int tile : {3, 4}) config.set(tile, upper, pairs * 4);
  for (int tile : {5, 6}) config.set(tile, std::max<int64_t>(lower, 1), pairs * 4);
  SplitHidden h;
  split(hidden, ld, y.count, groups * 2, h);
  _tile_loadconfig(&config);
  load_hidden(h, 0, lower > 0);
  Sums sums[2];
  int next = 0;
  for (int64_t column = first; column < last; column += 2 * LANES) {
    Sums& own = sums[next ^= 1];
    for (int64_t i = 0; i < y.count; ++i) _mm_prefetch(y.rows[i] + (column + 64) * 2, _MM_HINT_T0);
    for (int64_t block = 0; block < (last - column > LANES ? 2 : 1); ++block) {
      const char* weights = static_cast<const char*>(b) + (column / LANES + block) * groups * 64;
      prefetch_ahead(weights, groups * 64);
      _tile_zero(0);
      if (lower) _tile_zero(1);
      for (int64_t t = 0; t < k_tiles; ++t) {
        if (k_tiles > 1) load_hidden(h, t, lower > 0);
        _tile_loadd(2, weights + t * 1024, 64);
        _tile_dpbf16ps(0, 3, 2);
        if (lower) _tile_dpbf16ps(1, 5, 2);
        _tile_dpbf16ps(0, 4, 2);
        if (lower) _tile_dpbf16ps(1, 6, 2);
      }
      _tile_stored(0, own.values[block], 64);
      if (lower) _tile_stored(1, own.values[block][TILE_ROWS], 64);
    }
    if (column > first) add_sums(y, sums[next ^ 1], column - 2 * LANES, last);
  }
  const int64_t final = first + (last - first - 1) / (2 * LANES) * (2 * LANES);
  add_sums(y, sums[next], final, last);
  _tile_release();
}

}  // namespace

extern const Kernels AMX_BF16 = {shrink, expand, 2, TILE_K};

}  // namespace stackserve
