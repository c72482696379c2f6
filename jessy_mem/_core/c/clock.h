/* One clock for all latency accounting: jm_clock_ticks() reads it, jm_clock_ns() turns a difference into nanoseconds.

   On x86-64 Linux with a time stamp counter that is constant and never stops (the processor says so, and the kernel
   has not found otherwise) a tick is a TSC cycle: 7 to 10 ns to read. Elsewhere a tick is a nanosecond of the system's
   monotonic clock: 21 to 25 ns to read (python asv_bench/benchmarks/tricks.py compares the two). The TSC may advance in
   steps of 10 ns (AMD Zen), so that is the resolution to count on; jm_clock_resolution_ns() measures it.

   jm_clock_ticks() is read without a fence, so the processor may read early what stands behind unfinished work: of a
   chain of loads the last 20 ns are missed, and in exchange the reading itself is mostly hidden behind them. Where the
   event is that short and its time matters, jm_clock_ticks_after() waits for the work: right within the clock's step,
   and some 15 ns dearer.

   The factor is a 32.32 fixed-point number, measured by jm_clock_measure() to about 0.01 %: far below a bucket's width.
   Each module that reads the clock has one of its own, and is handed it by jm_clock_use() before its first reading. */
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
#if defined(__APPLE__)
    return clock_gettime_nsec_np(CLOCK_UPTIME_RAW); /* CLOCK_MONOTONIC counts microseconds there */
#else
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
#endif
}

static inline uint64_t jm_clock_ticks(void)
{
#ifdef JM_CLOCK_MAY_USE_TSC
    if (__builtin_expect(jm_clock_uses_tsc, 1))
        return __rdtsc();
#endif
    return jm_clock_monotonic_ns();
}

/* As jm_clock_ticks(), but not before all earlier instructions have executed. For the end of a very short event. */
static inline uint64_t jm_clock_ticks_after(void)
{
#ifdef JM_CLOCK_MAY_USE_TSC
    unsigned processor;
    if (__builtin_expect(jm_clock_uses_tsc, 1))
        return __rdtscp(&processor);
#endif
    return jm_clock_monotonic_ns();
}

/* Nanoseconds between two readings; 0 when the second is not later (readings on two CPUs may cross by a few ticks). */
static inline uint64_t jm_clock_ns(uint64_t begin_ticks, uint64_t end_ticks)
{
    uint64_t ticks = end_ticks - begin_ticks;
    if (__builtin_expect(ticks >> 28 == 0, 1)) /* the factor is below 2**36, so the product fits into one word */
        return ticks * jm_clock_ns_per_tick_q32 >> 32;
    if ((int64_t)ticks <= 0)
        return 0;
    return (uint64_t)(((unsigned __int128)ticks * jm_clock_ns_per_tick_q32) >> 32);
}

/* What two readings in a row differ by, in nanoseconds: the larger of the clock's step and its cost. The mean of a batch,
   since the TSC makes odd small steps to correct itself; the least of several, since there are interrupts. */
static double jm_clock_resolution_ns(void)
{
    enum { BATCHES = 16, READINGS = 256 };
    uint64_t least = UINT64_MAX, begin, end;
    int batch, i;
    for (batch = 0; batch < BATCHES; batch++) {
        begin = end = jm_clock_ticks();
        for (i = 0; i < READINGS || end == begin; i++)
            end = jm_clock_ticks();
        if (end > begin && end - begin < least)
            least = end - begin;
    }
    return (double)least / READINGS * (double)jm_clock_ns_per_tick_q32 / 4294967296.0;
}

#ifdef JM_CLOCK_MAY_USE_TSC
/* Whether the processor promises a constant and non-stop TSC, and the kernel, which compares it with other clocks and
   between processors all the time, still offers it. A clock the kernel found unstable leaves the list. */
static int jm_clock_tsc_is_trusted(void)
{
    unsigned a, b, c, d;
    char names[256] = "", *rest = NULL, *name;
    FILE *sources;
    if (!__get_cpuid(0x80000007u, &a, &b, &c, &d) || !(d & (1u << 8))) /* invariant TSC */
        return 0;
    if (!__get_cpuid(0x80000001u, &a, &b, &c, &d) || !(d & (1u << 27))) /* rdtscp */
        return 0;
    sources = fopen("/sys/devices/system/clocksource/clocksource0/available_clocksource", "re");
    if (sources == NULL)
        return 0;
    if (fgets(names, sizeof names, sources) == NULL)
        names[0] = 0;
    fclose(sources);
    for (name = strtok_r(names, " \n", &rest); name != NULL; name = strtok_r(NULL, " \n", &rest))
        if (strcmp(name, "tsc") == 0)
            return 1;
    return 0;
}

/* Read both clocks at the same moment: the tightest of several readings, whose width in nanoseconds is returned. */
static uint64_t jm_clock_pair(uint64_t *ns, uint64_t *ticks)
{
    uint64_t best_ns = UINT64_MAX;
    int attempt;
    for (attempt = 0; attempt < 32; attempt++) {
        uint64_t before = jm_clock_monotonic_ns(), tsc = __rdtsc(), after = jm_clock_monotonic_ns();
        if (after - before < best_ns) {
            best_ns = after - before;
            *ns = before + best_ns / 2;
            *ticks = tsc;
        }
    }
    return best_ns;
}
#endif

/* The factor of the time stamp counter, or 0 where it is not used; takes about 0.3 ms where it is, so once in a process. */
static uint64_t jm_clock_measure(void)
{
#ifdef JM_CLOCK_MAY_USE_TSC
    enum { SPAN_NS = 300000, MAX_WIDTH_NS = 1000 };
    uint64_t begin_ns = 0, end_ns = 0, begin_ticks = 0, end_ticks = 0, factor_q32;
    if (!jm_clock_tsc_is_trusted())
        return 0;
    /* A width of a microsecond means that readings are trapped and emulated: the system's clock is the faster one. */
    if (jm_clock_pair(&begin_ns, &begin_ticks) > MAX_WIDTH_NS)
        return 0;
    while (jm_clock_monotonic_ns() - begin_ns < SPAN_NS) {
    }
    if (jm_clock_pair(&end_ns, &end_ticks) > MAX_WIDTH_NS || end_ticks <= begin_ticks)
        return 0;
    factor_q32 = (uint64_t)(((unsigned __int128)(end_ns - begin_ns) << 32) / (end_ticks - begin_ticks));
    if (factor_q32 >= 1ull << 28 && factor_q32 < 1ull << 36) /* between 62.5 MHz and 16 GHz */
        return factor_q32;
#endif
    return 0;
}

/* Read the clock whose factor jm_clock_measure() gave. */
static void jm_clock_use(uint64_t factor_q32)
{
    jm_clock_uses_tsc = factor_q32 != 0;
    jm_clock_ns_per_tick_q32 = factor_q32 != 0 ? factor_q32 : 1ull << 32;
}

#endif
