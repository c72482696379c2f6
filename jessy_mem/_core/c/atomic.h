/* Atomic operations with the memory order in the name. The only file that knows the compiler's builtins. */
#ifndef JESSY_MEM_ATOMIC_H
#define JESSY_MEM_ATOMIC_H

#include <stdint.h>

#if !defined(__GNUC__)
#error "jessy_mem needs a compiler with the __atomic builtins (gcc or clang)"
#endif

#define JM_CACHE_LINE 64

/* Begin to bring memory near, and wait for nothing. */
#define jm_fetch_early(p) __builtin_prefetch(p)

/* A condition that is rarely true: its branch is laid out of the way. */
#define jm_unlikely(condition) __builtin_expect(!!(condition), 0)

static inline uint64_t jm_load_relaxed(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint64_t jm_load_acquire(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void jm_store_relaxed(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void jm_store_release(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint64_t jm_add_relaxed(uint64_t *p, uint64_t v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
static inline uint64_t jm_add_acq_rel(uint64_t *p, uint64_t v) { return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL); }
static inline uint64_t jm_sub_relaxed(uint64_t *p, uint64_t v) { return __atomic_fetch_sub(p, v, __ATOMIC_RELAXED); }
static inline uint64_t jm_sub_acq_rel(uint64_t *p, uint64_t v) { return __atomic_fetch_sub(p, v, __ATOMIC_ACQ_REL); }
static inline uint64_t jm_and_acq_rel(uint64_t *p, uint64_t v) { return __atomic_fetch_and(p, v, __ATOMIC_ACQ_REL); }
static inline uint64_t jm_or_acq_rel(uint64_t *p, uint64_t v) { return __atomic_fetch_or(p, v, __ATOMIC_ACQ_REL); }

/* Compare and swap: 1 when *p was *expected and is now desired; 0 when not, and *expected is what *p holds.
   The weak form may fail without cause and stands in loops only. */
static inline int jm_cas_acq_rel(uint64_t *p, uint64_t *expected, uint64_t desired)
{
    return __atomic_compare_exchange_n(p, expected, desired, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}
static inline int jm_cas_weak_acq_rel(uint64_t *p, uint64_t *expected, uint64_t desired)
{
    return __atomic_compare_exchange_n(p, expected, desired, 1, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
static inline int jm_cas_weak_relaxed(uint64_t *p, uint64_t *expected, uint64_t desired)
{
    return __atomic_compare_exchange_n(p, expected, desired, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

/* The same among threads that hold the GIL: a locked instruction only where there is no GIL to hold. */
static inline int jm_gil_cas(uint64_t *p, uint64_t *expected, uint64_t desired)
{
#ifdef Py_GIL_DISABLED
    return jm_cas_acq_rel(p, expected, desired);
#else
    if (*p == *expected) {
        *p = desired;
        return 1;
    }
    *expected = *p;
    return 0;
#endif
}

/* Raise *p to at least v. */
static inline void jm_max_relaxed(uint64_t *p, uint64_t v)
{
    uint64_t seen = jm_load_relaxed(p);
    while (seen < v && !jm_cas_weak_relaxed(p, &seen, v)) {
    }
}

/* Lower *p to at most v. */
static inline void jm_min_relaxed(uint64_t *p, uint64_t v)
{
    uint64_t seen = jm_load_relaxed(p);
    while (seen > v && !jm_cas_weak_relaxed(p, &seen, v)) {
    }
}

/* A pointer to something that was built before: who sees the pointer sees all of it. */
static inline void *jm_ptr_load_acquire(void *const *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void jm_ptr_store_release(void **p, void *v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline int jm_ptr_cas(void **p, void **expected, void *v)
{
    return __atomic_compare_exchange_n(p, expected, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* What was read before is read before whatever follows, for example "is what I read still good?". */
static inline void jm_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
/* What was written before is there for all before what follows is read; and the same for the compiler alone. */
static inline void jm_fence_full(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

/* Byte flags, for example "this layer's checksum has been compared". */
static inline uint8_t jm_flag_load_acquire(const uint8_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline uint8_t jm_flag_load_relaxed(const uint8_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void jm_flag_store_release(uint8_t *p, uint8_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void jm_flag_store_relaxed(uint8_t *p, uint8_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }

/* Numbers of two bytes, where more would make an object larger. */
static inline uint16_t jm_short_load_relaxed(const uint16_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint16_t jm_short_load_acquire(const uint16_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void jm_short_store_release(uint16_t *p, uint16_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void jm_short_store_relaxed(uint16_t *p, uint16_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }

/* Of any type: words that are CPython's. */
#define jm_any_load_relaxed(p) __atomic_load_n(p, __ATOMIC_RELAXED)
#define jm_any_load_acquire(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define jm_any_store_relaxed(p, v) __atomic_store_n(p, v, __ATOMIC_RELAXED)

/* Index of the lowest set bit; word must not be 0. */
static inline unsigned jm_ctz(uint64_t word) { return (unsigned)__builtin_ctzll(word); }
static inline unsigned jm_clz(uint64_t word) { return (unsigned)__builtin_clzll(word); }
static inline unsigned jm_popcount(uint64_t word) { return (unsigned)__builtin_popcountll(word); }

static inline void jm_spin_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

#endif
