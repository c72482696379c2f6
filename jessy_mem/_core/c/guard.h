/* Reads of mapped files that go on when the file does not: no SIGBUS for who reads memory that is registered here.

   HAZARD: a page of a mapping is gone when somebody truncates the file in place, or when the disk cannot read it. The
   next read of it is a signal, and the signal ends the process. Here the handler puts zeros in its place and lets the
   read happen again:

        begin                         address of the fault                  end
        |  pages that are still there |  gone                                |      a registered range
        |  untouched                  |  zeros, mapped over them, to the end |      after the handler
                                      ^ zeros_from: not UINT64_MAX means damaged

   So what was read may be zeros that were never in the file. Who reads asks jm_guard_damaged(), or compares where its
   read ended with the word that jm_guard_mark() gave, AFTER the read, and throws away what was read if the answer is yes:
   the mark is set before the zeros are there. Set once more after that, it also survives a jm_guard_reset() by another
   thread in between.

   Ranges live in an append-only table of chunks that is never freed, so the handler scans it without a lock. An entry's
   state is `version << 16 | handlers at work`; the version is odd while the entry holds a range, and begin and end change
   only while it is even. The handler counts itself in by compare-and-swap, which fails if the version moved since it
   read begin and end; jm_guard_remove() makes the version even and then waits for those who are in. So zeros are never
   mapped over what somebody else was given at an address that was unmapped meanwhile.

   Any other fault goes to whoever handled the signal before, as if nobody stood in front: to a function with the
   arguments that came; to the default by taking our own handler away and returning, so that the process dies of the same
   instruction, with the same signal and core. faulthandler prints, puts back what was there before itself, and raises
   the signal again: a signal that was sent while a handler is being asked goes to the one before that, or two that were
   put in front of each other would call each other for ever. A handler that returns without having mended anything
   (faulthandler after disable()) is passed over when the fault has repeated JM_GUARD_PATIENCE times.

   What it cannot do:
   - Who installs a handler after us gets the signal first, and faulthandler takes it for fatal. jm_guard_install() looks,
     and stands in front again; jm_guard_add() calls it for the first range only, for it costs a system call.
     faulthandler.disable() puts back what was there when it was enabled: if that was before us, we are gone until then.
   - A thread that blocks SIGBUS dies of it: the system asks no handler.
   - A system call that is given an address in a page that is gone returns EFAULT, and no handler runs.

   Works with and without the GIL, in threads that Python does not know, and in a forked child. The state is one process's,
   so one module includes this file: `_core/guard`, which the others ask. */
#ifndef JESSY_MEM_GUARD_H
#define JESSY_MEM_GUARD_H

#include "atomic.h"
#include "os_memory.h"
#include "thread.h"
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum {
    JM_GUARD_CHUNKS = 2048,
    JM_GUARD_CHUNK_RANGES = 512,
    JM_GUARD_BEFORE = 8,    /* handlers remembered for each signal */
    JM_GUARD_PATIENCE = 64, /* times that the same fault comes back before somebody else is asked */
};
#define JM_GUARD_VERSION 0x10000ull /* 1 in the version of a state */
#define JM_GUARD_AT_WORK 0xffffull

typedef struct {
    uint64_t state;      /* atomic */
    uint64_t begin, end; /* whole pages */
    uint64_t zeros_from; /* atomic; UINT64_MAX: undamaged */
    uint64_t is_writable;
} jm_guard_range;

typedef struct {
    uint64_t taken[JM_GUARD_CHUNK_RANGES / 64]; /* atomic; bit i: entry i belongs to somebody */
    jm_guard_range ranges[JM_GUARD_CHUNK_RANGES];
} jm_guard_chunk;

typedef struct {
    int signal;
    uint64_t n_before; /* atomic */
    struct sigaction before[JM_GUARD_BEFORE];
} jm_guard_signal;

static uint64_t jm_guard_chunks[JM_GUARD_CHUNKS]; /* atomic; jm_guard_chunk *, or 0 from the first unused one on */
static uint64_t jm_guard_installing;              /* atomic; 1 while a thread installs */
static uint64_t jm_guard_installed;               /* atomic; 1 once one has */
static pthread_once_t jm_guard_once = PTHREAD_ONCE_INIT;

static jm_guard_signal jm_guard_signals[] = {
    {.signal = SIGBUS},
#if defined(__APPLE__)
    {.signal = SIGSEGV},
#endif
};
enum { JM_GUARD_SIGNALS = sizeof jm_guard_signals / sizeof *jm_guard_signals };

static JM_THREAD_LOCAL uintptr_t jm_guard_last;  /* where this thread faulted last */
static JM_THREAD_LOCAL unsigned jm_guard_n_same; /* times that it came back there at once */
static JM_THREAD_LOCAL unsigned jm_guard_level;  /* handlers that are being asked */

static jm_guard_chunk *jm_guard_chunk_at(uint64_t number)
{
    return (jm_guard_chunk *)(uintptr_t)jm_load_acquire(&jm_guard_chunks[number]);
}

static jm_guard_range *jm_guard_range_at(int64_t handle)
{
    return &jm_guard_chunk_at(handle / JM_GUARD_CHUNK_RANGES)->ranges[handle % JM_GUARD_CHUNK_RANGES];
}

/* The handler. Nothing here allocates, locks or waits. */

static int jm_guard_mend(jm_guard_range *range, uintptr_t address)
{
    uint64_t state = jm_load_acquire(&range->state);
    uintptr_t page = address & ~((uintptr_t)jm_page_bytes() - 1);
    int is_mended = 0;
    do {
        if (!(state & JM_GUARD_VERSION) || address < jm_load_relaxed(&range->begin)
            || address >= jm_load_relaxed(&range->end))
            return 0;
    } while (!jm_cas_acq_rel(&range->state, &state, state + 1));
    if (jm_load_relaxed(&range->zeros_from) > page)
        jm_guard_n_same = 0;
    if (jm_guard_n_same <= JM_GUARD_PATIENCE) {
        jm_min_relaxed(&range->zeros_from, page);
        is_mended = jm_os_map_over((void *)page, range->end - page, -1, range->is_writable != 0) == 0;
        jm_min_relaxed(&range->zeros_from, page);
    } else { /* it is not for want of a page: for example a write to what is read-only, which is SIGBUS on some systems */
        jm_guard_n_same = 0;
    }
    jm_sub_acq_rel(&range->state, 1);
    return is_mended;
}

static int jm_guard_mend_any(uintptr_t address)
{
    jm_guard_chunk *chunk;
    uint64_t number, i;
    jm_guard_n_same = address == jm_guard_last ? jm_guard_n_same + 1 : 0;
    jm_guard_last = address;
    for (number = 0; number < JM_GUARD_CHUNKS && (chunk = jm_guard_chunk_at(number)) != NULL; number++)
        for (i = 0; i < JM_GUARD_CHUNK_RANGES; i++)
            if (jm_guard_mend(&chunk->ranges[i], address))
                return 1;
    return 0;
}

static void jm_guard_pass_on(int number, siginfo_t *info, void *context, int is_sent)
{
    unsigned before_level = jm_guard_level, level = is_sent ? before_level : jm_guard_n_same / JM_GUARD_PATIENCE;
    struct sigaction action = {0};
    int i;
    for (i = 0; i < JM_GUARD_SIGNALS; i++) {
        uint64_t n_before = jm_load_acquire(&jm_guard_signals[i].n_before);
        if (jm_guard_signals[i].signal == number && level < n_before)
            action = jm_guard_signals[i].before[n_before - 1 - level];
    }
    if (action.sa_handler == SIG_IGN && is_sent)
        return;
    if (action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN) {
        memset(&action, 0, sizeof action);
        action.sa_handler = SIG_DFL;
        sigaction(number, &action, NULL);
        if (is_sent)
            raise(number);
        return;
    }
    jm_guard_level = level + 1;
    if (action.sa_flags & SA_SIGINFO)
        action.sa_sigaction(number, info, context);
    else
        action.sa_handler(number);
    jm_guard_level = before_level;
}

static void jm_guard_handle(int number, siginfo_t *info, void *context)
{
    int error = errno, is_sent = info->si_code <= 0 || info->si_code == SI_USER;
#if defined(BUS_MCEERR_AO)
    is_sent |= number == SIGBUS && info->si_code == BUS_MCEERR_AO; /* about memory that nobody is reading just now */
#endif
    if (is_sent || !jm_guard_mend_any((uintptr_t)info->si_addr))
        jm_guard_pass_on(number, info, context, is_sent);
    errno = error;
}

/* Installing. */

/* In a forked child: those who were at work in other threads are not here any more. */
static void jm_guard_forked(void)
{
    jm_guard_chunk *chunk;
    uint64_t number, i;
    jm_store_relaxed(&jm_guard_installing, 0);
    for (number = 0; number < JM_GUARD_CHUNKS && (chunk = jm_guard_chunk_at(number)) != NULL; number++)
        for (i = 0; i < JM_GUARD_CHUNK_RANGES; i++)
            jm_and_acq_rel(&chunk->ranges[i].state, ~JM_GUARD_AT_WORK);
}

static void jm_guard_prepare(void)
{
    jm_page_bytes(); /* asked of the system here, not in the handler */
    pthread_atfork(NULL, NULL, jm_guard_forked);
}

static void jm_guard_install_one(jm_guard_signal *each)
{
    struct sigaction now, ours = {.sa_sigaction = jm_guard_handle, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    uint64_t at = 0, n_before = each->n_before;
    if (sigaction(each->signal, NULL, &now) != 0 || (now.sa_flags & SA_SIGINFO && now.sa_sigaction == jm_guard_handle))
        return;
    /* Whoever is there now may have been there before: those who came after have left, then. */
    while (at < n_before && each->before[at].sa_handler != now.sa_handler)
        at++;
    if (at == JM_GUARD_BEFORE)
        at--;
    each->before[at] = now;
    jm_store_release(&each->n_before, at + 1);
    sigemptyset(&ours.sa_mask);
    sigaction(each->signal, &ours, NULL);
}

/* Stand in front of whoever handles the signals now. Thread-safe; costs a system call when we are there already. */
static void jm_guard_install(void)
{
    uint64_t expected = 0;
    int i;
    pthread_once(&jm_guard_once, jm_guard_prepare);
    while (!jm_cas_acq_rel(&jm_guard_installing, &expected, 1)) {
        sched_yield();
        expected = 0;
    }
    for (i = 0; i < JM_GUARD_SIGNALS; i++)
        jm_guard_install_one(&jm_guard_signals[i]);
    jm_store_release(&jm_guard_installed, 1);
    jm_store_release(&jm_guard_installing, 0);
}

/* Ranges. */

/* The entry that is the caller's from now on, or -1. */
static int64_t jm_guard_claim(void)
{
    uint64_t number, word, expected, taken;
    for (number = 0; number < JM_GUARD_CHUNKS; number++) {
        jm_guard_chunk *chunk = jm_guard_chunk_at(number);
        if (chunk == NULL) {
            if ((chunk = calloc(1, sizeof *chunk)) == NULL)
                return -1;
            expected = 0;
            if (!jm_cas_acq_rel(&jm_guard_chunks[number], &expected, (uint64_t)(uintptr_t)chunk)) {
                free(chunk);
                chunk = (jm_guard_chunk *)(uintptr_t)expected;
            }
        }
        for (word = 0; word < JM_GUARD_CHUNK_RANGES / 64; word++) {
            taken = jm_load_relaxed(&chunk->taken[word]);
            while (~taken) {
                uint64_t lowest = ~taken & (taken + 1);
                if (jm_cas_weak_acq_rel(&chunk->taken[word], &taken, taken | lowest))
                    return (int64_t)(number * JM_GUARD_CHUNK_RANGES + word * 64 + jm_ctz(lowest));
            }
        }
    }
    return -1;
}

/* Guard the pages of [base, base + n_bytes), which are mapped from a file; `is_writable`: zeros that take their place can
   be written. A handle, or -1 without memory. Thread-safe. */
static int64_t jm_guard_add(void *base, size_t n_bytes, int is_writable)
{
    int64_t handle;
    jm_guard_range *range;
    void *first;
    size_t span_bytes;
    if (!jm_load_acquire(&jm_guard_installed))
        jm_guard_install();
    if ((handle = jm_guard_claim()) < 0)
        return -1;
    jm_page_span(base, n_bytes, &first, &span_bytes);
    range = jm_guard_range_at(handle);
    jm_store_relaxed(&range->begin, (uintptr_t)first);
    jm_store_relaxed(&range->end, (uintptr_t)first + span_bytes);
    jm_store_relaxed(&range->zeros_from, UINT64_MAX);
    range->is_writable = is_writable != 0;
    jm_add_acq_rel(&range->state, JM_GUARD_VERSION);
    return handle;
}

/* Forget a range, before it is unmapped. Nobody may read it any more. */
static void jm_guard_remove(int64_t handle)
{
    jm_guard_range *range = jm_guard_range_at(handle);
    jm_add_acq_rel(&range->state, JM_GUARD_VERSION);
    while (jm_load_acquire(&range->state) & JM_GUARD_AT_WORK)
        sched_yield();
    jm_and_acq_rel(&jm_guard_chunk_at(handle / JM_GUARD_CHUNK_RANGES)->taken[handle % JM_GUARD_CHUNK_RANGES / 64],
                   ~(1ull << handle % 64));
}

/* Whether what this thread has read until now may be zeros that stand for pages that are gone. */
static int jm_guard_damaged(int64_t handle)
{
    jm_fence_acquire();
    return jm_load_relaxed(&jm_guard_range_at(handle)->zeros_from) != UINT64_MAX;
}

/* The address from which on pages of a range have become zeros, UINT64_MAX if none have: a word that is read with
   jm_load_relaxed() behind jm_fence_acquire(), as long as the range is guarded. */
static const uint64_t *jm_guard_mark(int64_t handle) { return &jm_guard_range_at(handle)->zeros_from; }

/* Call a range undamaged, before something else is mapped in its place. */
static void jm_guard_reset(int64_t handle) { jm_store_release(&jm_guard_range_at(handle)->zeros_from, UINT64_MAX); }

#endif
