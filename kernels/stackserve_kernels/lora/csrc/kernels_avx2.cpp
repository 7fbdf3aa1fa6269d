// AVX2: sixteen floats are two registers.
#include <immintrin.h>

#include "vector_kernels.h"

namespace stackserve {
namespace {

struct Avx2 {
  struct F {
    __m256 low, high;
  };
  static constexpr int ROWS = 2, CHAINS = 2;
  static F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static void store(float* p, F v) {
    _mm256_storeu_ps(p, v.low);
    _mm256_storeu_ps(p + 8, v.high);
  }
  static F add(F a, F b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static F fma(F acc, F w, float s) {
    __m256 all = _mm256_set1_ps(s);
    return {_mm256_fmadd_ps(w.low, all, acc.low), _mm256_fmadd_ps(w.high, all, acc.high)};
  }
  static __m256i bits(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static F even(const char* p) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(bits(p), 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(bits(p + 32), 16))};
  }
  static F odd(const char* p) {
    __m256i mask = _mm256_set1_epi32(int(0xffff0000));
    return {_mm256_castsi256_ps(_mm256_and_si256(bits(p), mask)),
            _mm256_castsi256_ps(_mm256_and_si256(bits(p + 32), mask))};
  }
  static __m256 widen(const uint16_t* p) {
    __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
  static F load_bf16(const uint16_t* p) { return {widen(p), widen(p + 8)}; }
  static __m256i round_up(__m256 v) {
    __m256i value = _mm256_castps_si256(v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(value, 16), _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(value, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(value, _mm256_set1_epi32(0x400000));
    __m256 nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
    return _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, _mm256_castps_si256(nan)), 16);
  }
  static void store_bf16(uint16_t* p, F v) {
    __m256i packed = _mm256_packus_epi32(round_up(v.low), round_up(v.high));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
  }
};

}  // namespace

extern const Kernels AVX2_BF16 = {shrink<Avx2, WidenedBf16<Avx2>>, expand<Avx2, WidenedBf16<Avx2>>, 2, 2};
extern const Kernels AVX2_FP32 = {shrink<Avx2, Fp32<Avx2>>, expand<Avx2, Fp32<Avx2>>, 4, 1};

}  // namespace stackserve
