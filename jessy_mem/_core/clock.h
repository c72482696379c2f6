/* One clock for all latency accounting: jm_clock_ticks() reads it, jm_clock_ns() turns a difference into nanoseconds.

   On x86-64 Linux with a constant and non-stop time stamp counter (the CPU says so, and the kernel keeps "tsc" as its
   clock source) a tick is a TSC cycle: about 10 ns to read, resolution below 1 ns. Elsewhere a tick is a nanosecond of
   CLOCK_MONOTONIC: about 25 ns to read. The factor is a 32.32 fixed-point number, measured once when a module that
   includes this file calls jm_clock_init(). */
#ifndef JESSY_MEM_CLOCK_H
#define JESSY_MEM_CLOCK_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <x86intrin.h>
#define JM_CLOCK_MAY_USE_TSC 1
#endif

static int jm_clock_uses_tsc;                          /* 0: monotonic clock, 1: time stamp counter */
static uint64_t jm_clock_ns_per_tick_q32 = 1ull << 32; /* nanoseconds per tick, 32.32 fixed point */

static inline uint64_t jm_clock_monotonic_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static inline uint64_t jm_clock_ticks(void)
{
#ifdef JM_CLOCK_MAY_USE_TSC
    if (__builtin_expect(jm_clock_uses_tsc, 1))
        return __rdtsc();
#endif
    return jm_clock_monotonic_ns();
}

/* Nanoseconds between two readings; 0 when the second is not later (readings on two CPUs may cross by a few ticks). */
static inline uint64_t jm_clock_ns(uint64_t begin_ticks, uint64_t end_ticks)
{
    uint64_t ticks = end_ticks - begin_ticks;
    if ((int64_t)ticks <= 0)
        return 0;
    return (uint64_t)(((unsigned __int128)ticks * jm_clock_ns_per_tick_q32) >> 32);
}

#ifdef JM_CLOCK_MAY_USE_TSC
static int jm_clock_tsc_is_trusted(void)
{
    unsigned a, b, c, d;
    char name[16] = "";
    FILE *source;
    if (!__get_cpuid(0x80000007u, &a, &b, &c, &d) || !(d & (1u << 8))) /* invariant TSC */
        return 0;
    source = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "re");
    if (source == NULL)
        return 0;
    if (fgets(name, sizeof name, source) == NULL)
        name[0] = 0;
    fclose(source);
    return strncmp(name, "tsc", 3) == 0 || strncmp(name, "kvm-clock", 9) == 0 || strncmp(name, "hyperv", 6) == 0;
}
#endif

/* Choose and calibrate the clock; takes about 0.3 ms where the TSC is used. Call once, before the first reading. */
static void jm_clock_init(void)
{
#ifdef JM_CLOCK_MAY_USE_TSC
    uint64_t best_ns = UINT64_MAX, ns[2] = {0, 0}, ticks[2] = {0, 0};
    int end, attempt;
    if (!jm_clock_tsc_is_trusted())
        return;
    for (end = 0; end < 2; end++) {
        /* The tightest of several readings pairs both clocks to some 20 ns: 0.01 % over the 300 us between the ends. */
        best_ns = UINT64_MAX;
        for (attempt = 0; attempt < 32; attempt++) {
            uint64_t before = jm_clock_monotonic_ns(), tsc = __rdtsc(), after = jm_clock_monotonic_ns();
            if (after - before < best_ns) {
                best_ns = after - before;
                ns[end] = before + (after - before) / 2;
                ticks[end] = tsc;
            }
        }
        if (end == 0)
            while (jm_clock_monotonic_ns() - ns[0] < 300000) {
            }
    }
    if (ticks[1] <= ticks[0] || ns[1] <= ns[0])
        return;
    jm_clock_ns_per_tick_q32 = (uint64_t)(((unsigned __int128)(ns[1] - ns[0]) << 32) / (ticks[1] - ticks[0]));
    jm_clock_uses_tsc = 1;
#endif
}

#endif
