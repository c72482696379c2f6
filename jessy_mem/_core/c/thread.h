/* A small number for each live thread, given on first use and used again after the thread has ended.

   Each extension module that includes this file numbers threads for itself. Numbers below JM_MAX_THREADS belong to one
   live thread at a time, so memory indexed by them is written without atomics; later threads all get JM_MAX_THREADS
   and have to share. */
#ifndef JESSY_MEM_THREAD_H
#define JESSY_MEM_THREAD_H

#include "atomic.h"
#include <pthread.h>
#include <sched.h>

#define JM_MAX_THREADS 64

/* The four bytes of each module fit into the room glibc keeps for modules that are loaded late, and are then read
   without a call. Other C libraries keep no such room. */
#if defined(__GLIBC__)
#define JM_THREAD_LOCAL __thread __attribute__((tls_model("initial-exec")))
#else
#define JM_THREAD_LOCAL __thread
#endif

static uint64_t jm_thread_taken;                         /* bit i: number i belongs to a live thread */
static uint64_t jm_thread_given;                         /* only numbers below this were ever given */
static JM_THREAD_LOCAL unsigned jm_thread_number_plus_1; /* 0: this thread has none yet */
static pthread_key_t jm_thread_key;
static pthread_once_t jm_thread_once = PTHREAD_ONCE_INIT;

static void jm_thread_ended(void *number_plus_1)
{
    jm_and_acq_rel(&jm_thread_taken, ~(1ull << ((uintptr_t)number_plus_1 - 1)));
    jm_thread_number_plus_1 = 0;
}

static void jm_thread_prepare(void) { pthread_key_create(&jm_thread_key, jm_thread_ended); }

static __attribute__((noinline)) unsigned jm_thread_claim(void)
{
    uint64_t taken = jm_load_relaxed(&jm_thread_taken);
    unsigned number;
    pthread_once(&jm_thread_once, jm_thread_prepare);
    do {
        if (taken == UINT64_MAX) {
            jm_max_relaxed(&jm_thread_given, JM_MAX_THREADS + 1);
            jm_thread_number_plus_1 = JM_MAX_THREADS + 1;
            return JM_MAX_THREADS;
        }
        number = jm_ctz(~taken);
    } while (!jm_cas_weak_acq_rel(&jm_thread_taken, &taken, taken | 1ull << number));
    jm_max_relaxed(&jm_thread_given, number + 1);
    jm_thread_number_plus_1 = number + 1;
    pthread_setspecific(jm_thread_key, (void *)(uintptr_t)(number + 1));
    return number;
}

/* The row of this thread in a table that has one for each number: its number plus 1, or 0 if it has none yet. So what
   only a thread with a number has is looked up with one branch for both. */
static inline unsigned jm_thread_row(void) { return jm_thread_number_plus_1; }

/* All numbers that any thread was ever given lie below this. */
static inline unsigned jm_thread_end(void) { return (unsigned)jm_load_relaxed(&jm_thread_given); }

/* Let another thread run. */
static inline void jm_thread_yield(void) { sched_yield(); }

/* This thread's number, 0..JM_MAX_THREADS. */
static inline unsigned jm_thread_number(void)
{
    unsigned plus_1 = jm_thread_number_plus_1;
    return __builtin_expect(plus_1 != 0, 1) ? plus_1 - 1 : jm_thread_claim();
}

static uint64_t jm_forks; /* how many forks lie between this process and the one that began to count */
static pthread_once_t jm_forks_once = PTHREAD_ONCE_INIT;

static void jm_forked(void) { jm_add_acq_rel(&jm_forks, 1); }
static void jm_forks_prepare(void) { pthread_atfork(NULL, NULL, jm_forked); }

/* Differs between a process and a child that it forks after it has asked for the first time. */
static inline uint64_t jm_fork_number(void)
{
    pthread_once(&jm_forks_once, jm_forks_prepare);
    return jm_load_relaxed(&jm_forks);
}

static uint64_t jm_thread_serials = 1;              /* the last that was given; 0 and 1 are nobody's */
static JM_THREAD_LOCAL uint64_t jm_thread_serial_of; /* 0: this thread has none yet */

/* A number that no other thread has or had. */
static inline uint64_t jm_thread_serial(void)
{
    if (__builtin_expect(jm_thread_serial_of == 0, 0))
        jm_thread_serial_of = jm_add_relaxed(&jm_thread_serials, 1) + 1;
    return jm_thread_serial_of;
}

#endif
