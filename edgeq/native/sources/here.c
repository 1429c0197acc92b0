/* Which inner loops this processor gets. */
#include "primitives.h"

const eq_primitives *eq_here(void) {
#if defined(EQ_X86)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &eq_avx2;
#endif
  return &eq_portable;
}
