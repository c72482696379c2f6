/* Who reads and who changes memory that readers use without a lock.

   With the GIL there is nothing to do: a reader that runs no Python inside is alone. Without it each reader has a door,
   a word on a cache line of its own, which says that it is inside; and who changes waits until nobody is:

       reader:  door = 1; fence; changers == 0 ? read; door = 0       changer:  changers += 1; FENCE; each door == 0 ?
                                 else: door = 0, read otherwise                 change; changers -= 1

   One of the two sees the other, because a fence stands between what each writes and what it reads then. On Linux the
   changer pays for both: membarrier() makes all running threads pass a fence, so that of a reader is one for the
   compiler only. Inside, a reader neither runs Python nor waits, so a changer waits for some instructions. */
#ifndef JESSY_MEM_DOORS_H
#define JESSY_MEM_DOORS_H

#include <Python.h>
#include <sched.h>
#include <stdlib.h>

#include "atomic.h"

typedef struct {
    uint64_t inside;
    char rest[JM_CACHE_LINE - sizeof(uint64_t)];
} jm_door;

typedef struct {
    uint64_t changers;     /* how many change something */
    uint64_t lock;         /* of those who put something in while others read */
    uint64_t asymmetric;   /* whether the system has the fence for all */
    jm_door *doors;        /* one for each row of threads, see thread.h */
    int n_doors;
} jm_hall;

#ifdef Py_GIL_DISABLED

#if defined(__linux__)
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>
static int jm_fence_all(int command) { return (int)syscall(SYS_membarrier, command, 0, 0); }
static int jm_fence_all_begin(void) { return jm_fence_all(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0; }
static void jm_fence_all_now(void) { jm_fence_all(MEMBARRIER_CMD_PRIVATE_EXPEDITED); }
#else
static int jm_fence_all_begin(void) { return 0; }
static void jm_fence_all_now(void) {}
#endif

/* 0 without memory. */
static int jm_hall_begin(jm_hall *hall, int n_doors)
{
    hall->doors = (jm_door *)aligned_alloc(JM_CACHE_LINE, sizeof(jm_door) * (size_t)n_doors);
    if (hall->doors == NULL)
        return 0;
    for (hall->n_doors = 0; hall->n_doors < n_doors; hall->n_doors++)
        hall->doors[hall->n_doors].inside = 0;
    hall->asymmetric = (uint64_t)jm_fence_all_begin();
    return 1;
}

static void jm_hall_end(jm_hall *hall) { free(hall->doors); }

/* A door beside those of the rows; NULL without memory. */
static jm_door *jm_door_begin(void)
{
    jm_door *door = (jm_door *)aligned_alloc(JM_CACHE_LINE, sizeof(jm_door));
    if (door != NULL)
        door->inside = 0;
    return door;
}

static void jm_door_end(jm_door *door) { free(door); }

/* Whether the reader is inside; else somebody changes what it wanted to read. */
static inline int jm_door_enter(const jm_hall *hall, jm_door *door)
{
    jm_store_relaxed(&door->inside, 1);
    if (hall->asymmetric)
        jm_fence_compiler();
    else
        jm_fence_full();
    if (__builtin_expect(jm_load_acquire(&hall->changers) == 0, 1))
        return 1;
    jm_store_release(&door->inside, 0);
    return 0;
}

static inline void jm_door_leave(jm_door *door) { jm_store_release(&door->inside, 0); }

/* The same at the door of a row (thread.h); a thread that has no row of its own never comes in. */
static inline int jm_hall_enter(const jm_hall *hall, unsigned row)
{
    return row - 1 < (unsigned)hall->n_doors && jm_door_enter(hall, &hall->doors[row - 1]);
}

static inline void jm_hall_leave(const jm_hall *hall, unsigned row) { jm_door_leave(&hall->doors[row - 1]); }

static void jm_door_wait(const jm_door *door)
{
    while (jm_load_acquire(&door->inside))
        sched_yield();
}

/* From now on no reader comes in; who is inside is waited for with jm_door_wait. Several may change at once. */
static void jm_change_begin(jm_hall *hall)
{
    int i;
    jm_add_acq_rel(&hall->changers, 1);
    if (hall->asymmetric)
        jm_fence_all_now();
    else
        jm_fence_full();
    for (i = 0; i < hall->n_doors; i++)
        jm_door_wait(&hall->doors[i]);
}

static inline void jm_change_end(jm_hall *hall) { jm_sub_acq_rel(&hall->changers, 1); }

/* For a few instructions, which wait for nothing. */
static inline void jm_hall_lock(jm_hall *hall)
{
    uint64_t open = 0;
    while (!jm_cas_weak_acq_rel(&hall->lock, &open, 1)) {
        open = 0;
        sched_yield();
    }
}

static inline void jm_hall_unlock(jm_hall *hall) { jm_store_release(&hall->lock, 0); }

#else

static inline int jm_hall_begin(jm_hall *hall, int n_doors) { return 1; }
static inline void jm_hall_end(jm_hall *hall) {}
static inline jm_door *jm_door_begin(void)
{
    static jm_door none;
    return &none;
}
static inline void jm_door_end(jm_door *door) {}
static inline int jm_door_enter(const jm_hall *hall, jm_door *door) { return 1; }
static inline void jm_door_leave(jm_door *door) {}
static inline int jm_hall_enter(const jm_hall *hall, unsigned row) { return 1; }
static inline void jm_hall_leave(const jm_hall *hall, unsigned row) {}
static inline void jm_door_wait(const jm_door *door) {}
static inline void jm_change_begin(jm_hall *hall) {}
static inline void jm_change_end(jm_hall *hall) {}
static inline void jm_hall_lock(jm_hall *hall) {}
static inline void jm_hall_unlock(jm_hall *hall) {}

#endif
#endif
