/* The barrier of threads that run a network together, for compilers with GNU C's atomic operations. */
#include "edgeq.h"

#ifdef __GNUC__

#if defined(__unix__) || defined(__APPLE__)
#include <sched.h>
#define YIELD() sched_yield()
#else
#define YIELD() ((void)0)
#endif

#define SPINS 4096 /* before other threads may have the CPU */

void eq_wait(void *barrier) {
  eq_barrier *at = (eq_barrier *)barrier;
  int32_t round = __atomic_load_n(&at->round, __ATOMIC_ACQUIRE), i = 0;
  if (__atomic_add_fetch(&at->arrived, 1, __ATOMIC_ACQ_REL) == at->parts) {
    __atomic_store_n(&at->arrived, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&at->round, round + 1, __ATOMIC_RELEASE);
    return;
  }
  while (__atomic_load_n(&at->round, __ATOMIC_ACQUIRE) == round)
    if (++i % SPINS == 0) YIELD();
}

#endif
