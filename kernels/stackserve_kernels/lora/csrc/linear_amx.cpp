// The product of a base layer in bf16 on AMX. A row's sum runs over the tiles of its input features in
// one order, in one accumulator, however many rows there are.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "tiles.h"

namespace stackserve {
namespace {

constexpr int64_t ROWS = 2 * TILE_ROWS, COLUMNS = 2 * LANES;  // of a block: two tiles by two
constexpr int64_t AHEAD = 4096;                               // bytes of weights, as in kernels_amx

struct Sums {
  alignas(64) float values[ROWS][COLUMNS];
};

// A block whose sums are complete and wait to be rounded into y. That is done row by row while the
// tile unit works on the next block, which it does not slow down.
struct Waiting {
  const Sums* sums = nullptr;
  const float* bias = nullptr;
  char* y = nullptr;
  int64_t y_stride = 0, row = 0, rows = 0;
  bool two_columns = false;

  void round(int64_t count) {
    const __m512 zero = _mm512_setzero_ps();
    const __m512 bias0 = bias ? _mm512_loadu_ps(bias) : zero;
    const __m512 bias1 = bias && two_columns ? _mm512_loadu_ps(bias + LANES) : zero;
    for (const int64_t end = std::min(rows, row + count); row < end; ++row) {
      const __m512 first = _mm512_add_ps(_mm512_load_ps(sums->values[row]), bias0);
      char* target = y + row * y_stride;
      if (two_columns) {
        const __m512 second = _mm512_add_ps(_mm512_load_ps(sums->values[row] + LANES), bias1);
        _mm512_storeu_si512(target, (__m512i)_mm512_cvtne2ps_pbh(second, first));
      } else {
        _mm256_storeu_si256((__m256i*)target, (__m256i)_mm512_cvtneps_pbh(first));
      }
    }
  }
};

// Tiles: 0 to 3 sums (row, column: 00 01 10 11); 4, 5 x; 6, 7 weights.
template <bool TWO_ROWS, bool TWO_COLUMNS, bool PREFETCH>
void multiply_block(const char* x, int64_t x_stride, const char* w, int64_t tiles, Sums& sums,
                    Waiting& waiting) {
  const char *x2 = x + TILE_ROWS * x_stride, *w2 = w + tiles * TILE_BYTES;
  const int64_t rounded = (waiting.rows + tiles - 1) / tiles;
  _tile_zero(0);
  if (TWO_COLUMNS) _tile_zero(1);
  if (TWO_ROWS) _tile_zero(2);
  if (TWO_ROWS && TWO_COLUMNS) _tile_zero(3);
  for (int64_t t = 0; t < tiles; ++t) {
    _tile_loadd(6, w + t * TILE_BYTES, 64);
    _tile_loadd(4, x + t * 64, x_stride);
    if (PREFETCH)
      for (int64_t line = 0; line < TILE_BYTES; line += 64) {
        _mm_prefetch(w + t * TILE_BYTES + AHEAD + line, _MM_HINT_T0);
        if (TWO_COLUMNS) _mm_prefetch(w2 + t * TILE_BYTES + AHEAD + line, _MM_HINT_T0);
      }
    _tile_dpbf16ps(0, 4, 6);
    if (TWO_COLUMNS) {
      _tile_loadd(7, w2 + t * TILE_BYTES, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (TWO_ROWS) {
      _tile_loadd(5, x2 + t * 64, x_stride);
      _tile_dpbf16ps(2, 5, 6);
      if (TWO_COLUMNS) _tile_dpbf16ps(3, 5, 7);
    }
    waiting.round(rounded);
  }
  _tile_stored(0, sums.values[0], COLUMNS * 4);
  if (TWO_COLUMNS) _tile_stored(1, sums.values[0] + LANES, COLUMNS * 4);
  if (TWO_ROWS) _tile_stored(2, sums.values[TILE_ROWS], COLUMNS * 4);
  if (TWO_ROWS && TWO_COLUMNS) _tile_stored(3, sums.values[TILE_ROWS] + LANES, COLUMNS * 4);
}

void configure(int64_t upper, int64_t lower) {
  TileConfig config;
  for (int tile : {0, 1, 4}) config.set(tile, upper, 64);
  for (int tile : {2, 3, 5}) config.set(tile, std::max<int64_t>(lower, 1), 64);
  for (int tile : {6, 7}) config.set(tile, 16, 64);
  _tile_loadconfig(&config);
}

template <bool TWO_COLUMNS>
void multiply_rows(const char* x, int64_t x_stride, const char* w, int64_t tiles, int64_t rows,
                   bool prefetch, Sums& sums, Waiting& waiting) {
  if (rows > TILE_ROWS)
    prefetch ? multiply_block<true, TWO_COLUMNS, true>(x, x_stride, w, tiles, sums, waiting)
             : multiply_block<true, TWO_COLUMNS, false>(x, x_stride, w, tiles, sums, waiting);
  else
    prefetch ? multiply_block<false, TWO_COLUMNS, true>(x, x_stride, w, tiles, sums, waiting)
             : multiply_block<false, TWO_COLUMNS, false>(x, x_stride, w, tiles, sums, waiting);
}

}  // namespace

void multiply_amx(const Linear& layer, const float* bias, const char* x, int64_t x_stride, char* y,
                  int64_t y_stride, int64_t rows, int64_t first, int64_t last) {
  const int64_t tiles = layer.in / TILE_K;
  const char* weights = static_cast<const char*>(layer.w);
  Sums sums[2];  // of this block, and of the one before
  int next = 0;
  Waiting waiting;
  // Whole blocks of rows, then what is left of them: each has its own tile shapes.
  for (int64_t begin = 0, end; begin < rows; begin = end) {
    end = rows - begin >= ROWS ? rows / ROWS * ROWS : rows;
    const int64_t step = std::min(ROWS, end - begin);
    configure(std::min(TILE_ROWS, step), step - std::min(TILE_ROWS, step));
    for (int64_t column = first; column < last; column += COLUMNS) {
      const char* w = weights + column / LANES * tiles * TILE_BYTES;
      const float* own_bias = bias ? bias + column : nullptr;
      const bool two = last - column > LANES;
      for (int64_t row = begin; row < end; row += step) {
        const char* block = x + row * x_stride;
        const bool prefetch = row == begin;
        Sums& own = sums[next ^= 1];
        two ? multiply_rows<true>(block, x_stride, w, tiles, step, prefetch, own, waiting)
            : multiply_rows<false>(block, x_stride, w, tiles, step, prefetch, own, waiting);
        waiting = {&own, own_bias, y + row * y_stride + column * 2, y_stride, 0, step, two};
      }
    }
  }
  waiting.round(ROWS);
  _tile_release();
}

void store_past_caches(const char* from, int64_t from_stride, char* to, int64_t to_stride,
                       int64_t rows, int64_t bytes) {
  const bool lines = (reinterpret_cast<uintptr_t>(to) | to_stride | bytes) % 64 == 0;
  for (int64_t i = 0; i < rows; ++i) {
    const char* source = from + i * from_stride;
    char* target = to + i * to_stride;
    for (int64_t at = 0; lines && at < bytes; at += 64)
      _mm512_stream_si512(reinterpret_cast<__m512i*>(target + at), _mm512_loadu_si512(source + at));
    if (!lines) std::memcpy(target, source, bytes);
  }
  _mm_sfence();  // other threads read it next
}

}  // namespace stackserve
