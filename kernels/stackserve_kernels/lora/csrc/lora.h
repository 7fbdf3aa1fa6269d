// The plain C types that cpu.py fills in, and the table of kernels that each instruction set brings.
#pragma once

#include <cstdint>

// For the functions that Python calls.
#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace stackserve {

constexpr int64_t LANES = 16;       // output features or ranks that one vector holds
constexpr int64_t BLOCK_ROWS = 32;  // most rows of one segment that a kernel call takes
constexpr int64_t MOST_GROUPS = 512;  // cpu.py refuses a larger rank

// One adapter's packed weights for one slice. For elements in groups of P (two bf16, one fp32):
//   a: blocks of up to 16 ranks, each [in / P][ranks of the block][P]
//   b: blocks of 16 outputs, each [groups][16][P], where groups = padded rank / P
struct SliceWeights {
  const void* a;
  const void* b;
  int32_t rank;  // 0: the adapter leaves this slice alone
  int32_t groups;
  float scale;
  int32_t unused;
};

struct Kernels;

struct Layer {
  int64_t in;
  int64_t slices;
  const int64_t* out;         // [slices]
  const SliceWeights* table;  // [slots][slices]
  const Kernels* kernels;     // for the type of the weights, which x and y have too
};

struct Plan {
  int64_t segments;
  const int32_t* slots;   // [segments]
  const int32_t* starts;  // [segments + 1], into order
  const int32_t* order;   // row numbers, segment by segment
};

// Rows of one segment as a kernel sees them: rows[i] is where row i begins.
template <typename T>
struct Rows {
  T* rows[BLOCK_ROWS];
  int64_t count;
};

// hidden[i * ld + j] = scale * sum_k x[i][k] a[j][k], for the ranks j of one block of at most 16.
using Shrink = void (*)(const Rows<const char>& x, int64_t in, const void* a, int64_t ranks,
                        float scale, float* hidden, int64_t ld);

// y[i][c] += sum_j hidden[i * ld + j] b[c][j], for outputs c of [first, last); first is a multiple
// of 16. hidden has zeros from the rank up to groups * P.
using Expand = void (*)(const Rows<char>& y, const float* hidden, int64_t ld, const void* b,
                        int64_t groups, int64_t first, int64_t last);

struct Kernels {
  Shrink shrink;
  Expand expand;
  int64_t element_bytes;
  int64_t in_multiple;  // of this the input features must be
};

// A base layer: y = x Wᵀ + bias, in bf16, as AMX computes it.
//   w: blocks of 16 outputs, each [in / 32 tiles][16 pairs][16][2]; in % 32 == 0, out % 16 == 0
struct Linear {
  int64_t in;
  int64_t out;
  const void* w;
};

// y[i][c] = x[i] w[c] + bias[c] for `rows` rows and outputs c of [first, last), multiples of 16.
// bias [out] may be null. Strides in bytes.
void multiply_amx(const Linear& layer, const float* bias, const char* x, int64_t x_stride, char* y, int64_t y_stride,
                  int64_t rows, int64_t first, int64_t last);

// Copies rows of `bytes` to memory without bringing it into the caches.
void store_past_caches(const char* from, int64_t from_stride, char* to, int64_t to_stride,
                       int64_t rows, int64_t bytes);

// Each set of kernels sums one row in one order, however many rows it is called with.
extern const Kernels AVX2_BF16, AVX2_FP32, AVX512_BF16, AVX512_FP32, AVX512_DOT_BF16, AMX_BF16;

}  // namespace stackserve
