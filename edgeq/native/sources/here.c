/* Which inner loops this processor gets. */
#include "primitives.h"

const eq_primitives *eq_set(int32_t place) {
  const eq_primitives *sets[4];
  int32_t count = 0;
#ifdef EQ_X86
  if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi")) sets[count++] = &eq_vnni;
#ifdef EQ_X86_AVX_VNNI
  if (__builtin_cpu_supports("avxvnni")) sets[count++] = &eq_avx_vnni;
#endif
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets[count++] = &eq_avx2;
#endif
#ifdef EQ_SIMD128
  sets[count++] = &eq_simd128;
#endif
#ifdef EQ_NEON
  sets[count++] = &eq_neon;
#endif
  sets[count++] = &eq_portable;
  return place < count ? sets[place] : NULL;
}

const eq_primitives *eq_here(void) { return eq_set(0); }
