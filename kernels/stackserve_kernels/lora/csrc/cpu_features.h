#pragma once

namespace stackserve {

struct CpuFeatures {
  bool avx2 = false, avx512 = false, avx512_bf16 = false, amx = false;
};

CpuFeatures detect_cpu();

}  // namespace stackserve
