// AVX-512: sixteen floats a register. With -mavx512bf16 the same file brings the dot products of pairs.
#include <immintrin.h>

#include "vector_kernels.h"

namespace stackserve {
namespace {

struct Avx512 {
  using F = __m512;
  static constexpr int ROWS = 4, CHAINS = 4;
  static F zero() { return _mm512_setzero_ps(); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F fma(F acc, F w, float s) { return _mm512_fmadd_ps(w, _mm512_set1_ps(s), acc); }
  static F even(const char* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16));
  }
  static F odd(const char* p) {
    return _mm512_castsi512_ps(
        _mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(int(0xffff0000))));
  }
  static F load_bf16(const uint16_t* p) {
    __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
#ifdef __AVX512BF16__
  static F dot(F acc, const char* w, uint32_t pair) {
    return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_loadu_si512(w),
                            (__m512bh)_mm512_set1_epi32(int(pair)));
  }
  static void store_bf16(uint16_t* p, F v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(v));
  }
#else
  static void store_bf16(uint16_t* p, F v) {
    __m512i bits = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    up = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x400000));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16)));
  }
#endif
};

}  // namespace

#ifdef __AVX512BF16__
extern const Kernels AVX512_DOT_BF16 = {shrink<Avx512, DottedBf16<Avx512>>,
                                        expand<Avx512, DottedBf16<Avx512>>, 2, 2};
#else
extern const Kernels AVX512_BF16 = {shrink<Avx512, WidenedBf16<Avx512>>,
                                    expand<Avx512, WidenedBf16<Avx512>>, 2, 2};
extern const Kernels AVX512_FP32 = {shrink<Avx512, Fp32<Avx512>>, expand<Avx512, Fp32<Avx512>>, 4, 1};
#endif

}  // namespace stackserve
