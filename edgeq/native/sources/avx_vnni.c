/* The inner loops for x86 processors with AVX-VNNI, whose vectors have 256 bits: those for AVX2 with one instruction for
 * four products and their sum. */
#include "primitives.h"

#ifdef EQ_X86_AVX_VNNI
#define EQ_AVX_VNNI
#include "avx2.c"
#else
typedef int eq_no_avx_vnni; /* a file of C has something in it */
#endif
