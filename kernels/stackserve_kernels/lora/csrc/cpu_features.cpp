// Which instruction sets this CPU and its operating system offer.
#include "cpu_features.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace stackserve {
namespace {

struct Leaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Leaf leaf7(unsigned subleaf) {
  Leaf leaf;
  __get_cpuid_count(7, subleaf, &leaf.eax, &leaf.ebx, &leaf.ecx, &leaf.edx);
  return leaf;
}

// Linux gives a process the tile registers when it asks (arch_prctl, ARCH_REQ_XCOMP_PERM).
bool may_use_tiles() {
  constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

}  // namespace

CpuFeatures detect_cpu() {
  CpuFeatures found;
  found.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  found.avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  found.avx512_bf16 = found.avx512 && (leaf7(1).eax >> 5 & 1);
  const unsigned edx = leaf7(0).edx;
  found.amx = found.avx512_bf16 && (edx >> 22 & 1) && (edx >> 24 & 1) && may_use_tiles();
  return found;
}

}  // namespace stackserve
