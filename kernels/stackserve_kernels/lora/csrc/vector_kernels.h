// Shrink and expand over vectors of 16 floats, for an instruction set `V` that brings
//   F          a vector of 16 floats          zero, load, store, fma(acc, w, s): acc + w * s
//   Acc        running sums of one row        ROWS, CHAINS: how many fit into the registers
// and a weight type `W` that multiplies one group of P elements into a vector.
#pragma once

#include <cstdint>
#include <cstring>

#include "lora.h"

namespace stackserve {
namespace {

inline float from_bf16(uint16_t value) {
  uint32_t bits = uint32_t(value) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

inline uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t((bits >> 16) | 0x40);  // stays a NaN
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// fp32 weights: a group is one element.
template <typename V>
struct Fp32 {
  using Element = float;
  using Hidden = float;  // one group of hidden values
  static constexpr int64_t P = 1;
  static void split(const float* hidden, int64_t groups, Hidden* out) {
    std::memcpy(out, hidden, groups * sizeof(float));
  }
  static typename V::F mul_x(typename V::F acc, const char* w, const char* x) {
    float s;
    std::memcpy(&s, x, 4);
    return V::fma(acc, V::load(reinterpret_cast<const float*>(w)), s);
  }
  static typename V::F mul_hidden(typename V::F acc, const char* w, const Hidden& h) {
    return V::fma(acc, V::load(reinterpret_cast<const float*>(w)), h);
  }
  static typename V::F load_y(const Element* y) { return V::load(y); }
  static void store_y(Element* y, typename V::F value) { V::store(y, value); }
  static float widen(Element value) { return value; }
  static Element narrow(float value) { return value; }
};

// bf16 weights widened to fp32 in registers: a group is two elements, two multiplications.
template <typename V>
struct WidenedBf16 {
  using Element = uint16_t;
  struct Hidden {
    float even, odd;
  };
  static constexpr int64_t P = 2;
  static void split(const float* hidden, int64_t groups, Hidden* out) {
    for (int64_t g = 0; g < groups; ++g) out[g] = {hidden[2 * g], hidden[2 * g + 1]};
  }
  static typename V::F mul_x(typename V::F acc, const char* w, const char* x) {
    uint16_t pair[2];
    std::memcpy(pair, x, 4);
    acc = V::fma(acc, V::even(w), from_bf16(pair[0]));
    return V::fma(acc, V::odd(w), from_bf16(pair[1]));
  }
  static typename V::F mul_hidden(typename V::F acc, const char* w, const Hidden& h) {
    acc = V::fma(acc, V::even(w), h.even);
    return V::fma(acc, V::odd(w), h.odd);
  }
  static typename V::F load_y(const Element* y) { return V::load_bf16(y); }
  static void store_y(Element* y, typename V::F value) { V::store_bf16(y, value); }
  static float widen(Element value) { return from_bf16(value); }
  static Element narrow(float value) { return to_bf16(value); }
};

// bf16 weights with the CPU's dot product of pairs. Hidden values keep sixteen bits of precision as
// the sum of two bf16.
template <typename V>
struct DottedBf16 {
  using Element = uint16_t;
  struct Hidden {
    uint32_t high, low;  // a pair each
  };
  static constexpr int64_t P = 2;
  static void split(const float* hidden, int64_t groups, Hidden* out) {
    for (int64_t g = 0; g < groups; ++g) {
      uint16_t high[2], low[2];
      for (int i = 0; i < 2; ++i) {
        float value = hidden[2 * g + i];
        high[i] = to_bf16(value);
        low[i] = to_bf16(value - from_bf16(high[i]));
      }
      std::memcpy(&out[g].high, high, 4);
      std::memcpy(&out[g].low, low, 4);
    }
  }
  static typename V::F mul_x(typename V::F acc, const char* w, const char* x) {
    uint32_t pair;
    std::memcpy(&pair, x, 4);
    return V::dot(acc, w, pair);
  }
  static typename V::F mul_hidden(typename V::F acc, const char* w, const Hidden& h) {
    return V::dot(V::dot(acc, w, h.high), w, h.low);
  }
  static typename V::F load_y(const Element* y) { return V::load_bf16(y); }
  static void store_y(Element* y, typename V::F value) { V::store_bf16(y, value); }
  static float widen(Element value) { return from_bf16(value); }
  static Element narrow(float value) { return to_bf16(value); }
};

// R rows against one block of ranks. Group g goes to chain g % CHAINS, so that the sums do not wait
// for one another; the chains are added in order.
template <typename V, typename W, int R>
void shrink_rows(const char* const* x, int64_t groups, const char* a, int64_t ranks, float scale,
                 float* hidden, int64_t ld) {
  constexpr int C = V::CHAINS;
  const int64_t step = ranks * W::P * sizeof(typename W::Element);
  constexpr int64_t x_step = W::P * sizeof(typename W::Element);
  typename V::F acc[R][C];
  for (auto& row : acc)
    for (auto& chain : row) chain = V::zero();
  int64_t g = 0;
  for (; g + C <= groups; g += C)
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r)
        acc[r][c] = W::mul_x(acc[r][c], a + (g + c) * step, x[r] + (g + c) * x_step);
  for (int c = 0; g + c < groups; ++c)
    for (int r = 0; r < R; ++r)
      acc[r][c] = W::mul_x(acc[r][c], a + (g + c) * step, x[r] + (g + c) * x_step);
  for (int r = 0; r < R; ++r) {
    typename V::F sum = acc[r][0];
    for (int c = 1; c < C; ++c) sum = V::add(sum, acc[r][c]);
    float lanes[LANES];
    V::store(lanes, V::fma(V::zero(), sum, scale));
    std::memcpy(hidden + r * ld, lanes, ranks * sizeof(float));  // lanes past `ranks` are not ours
  }
}

template <typename V, typename W>
void shrink(const Rows<const char>& x, int64_t in, const void* a, int64_t ranks, float scale,
            float* hidden, int64_t ld) {
  const char* weights = static_cast<const char*>(a);
  int64_t i = 0;
  for (; i + V::ROWS <= x.count; i += V::ROWS)
    shrink_rows<V, W, V::ROWS>(x.rows + i, in / W::P, weights, ranks, scale, hidden + i * ld, ld);
  for (; i < x.count; ++i)
    shrink_rows<V, W, 1>(x.rows + i, in / W::P, weights, ranks, scale, hidden + i * ld, ld);
}

template <typename V, typename W, int R>
void expand_rows(char* const* y, const typename W::Hidden* hidden, const char* b, int64_t groups,
                 int64_t first, int64_t last) {
  using Element = typename W::Element;
  constexpr int64_t step = LANES * W::P * sizeof(Element);
  for (int64_t column = first; column < last; column += LANES) {
    const char* block = b + (column / LANES) * groups * step;
    typename V::F acc[R];
    for (auto& row : acc) row = V::zero();
    for (int64_t g = 0; g < groups; ++g)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r)
        acc[r] = W::mul_hidden(acc[r], block + g * step, hidden[r * groups + g]);
    for (int r = 0; r < R; ++r) {
      Element* target = reinterpret_cast<Element*>(y[r]) + column;
      if (last - column >= LANES) {
        W::store_y(target, V::add(W::load_y(target), acc[r]));
      } else {
        float lanes[LANES];
        V::store(lanes, acc[r]);
        for (int64_t i = 0; i < last - column; ++i)
          target[i] = W::narrow(W::widen(target[i]) + lanes[i]);
      }
    }
  }
}

template <typename V, typename W>
void expand(const Rows<char>& y, const float* hidden, int64_t ld, const void* b, int64_t groups,
            int64_t first, int64_t last) {
  const char* weights = static_cast<const char*>(b);
  typename W::Hidden split[V::ROWS * MOST_GROUPS];
  for (int64_t i = 0; i < y.count; i += V::ROWS) {
    const int64_t rows = y.count - i < V::ROWS ? y.count - i : V::ROWS;
    for (int64_t r = 0; r < rows; ++r)
      W::split(hidden + (i + r) * ld, groups, split + r * groups);
    if (rows == V::ROWS)
      expand_rows<V, W, V::ROWS>(y.rows + i, split, weights, groups, first, last);
    else
      for (int64_t r = 0; r < rows; ++r)
        expand_rows<V, W, 1>(y.rows + i + r, split + r * groups, weights, groups, first, last);
  }
}

}  // namespace
}  // namespace stackserve
