/* Preloaded under valgrind, where all takes some fifty times as long and the clock goes on as ever: what fastmap does by the
   clock (how often next() looks at the workers, when it sends what a slow input gave) would be counted as on a machine as
   slow as that. This clock is 50 ns later whenever somebody looks, so that each run has the same instructions. */
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    static long long looks = 0;
    long long nanos = 50 * __atomic_add_fetch(&looks, 1, __ATOMIC_RELAXED);
    (void)clock;
    now->tv_sec = 1 + nanos / 1000000000;
    now->tv_nsec = nanos % 1000000000;
    return 0;
}
