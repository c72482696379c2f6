/* Unmapping. A call costs some microseconds, most of them whatever the range: ranges that a thread gives back between
   jm_unmap_begin() and jm_unmap_end() are collected, and neighbours, as the kernel places them, go in one call: 0.75 us
   instead of 1.9 for each of 64 small files (python asv_bench/benchmarks/tricks.py). */
#ifndef JESSY_MEM_UNMAP_H
#define JESSY_MEM_UNMAP_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

typedef struct {
    uintptr_t begin, end; /* whole pages */
} jm_range;

typedef struct {
    jm_range *ranges;
    size_t n_ranges, n_room;
    int depth; /* calls of jm_unmap_begin() without their end */
} jm_unmap_list;

static __thread jm_unmap_list jm_unmap_later;

static inline void jm_unmap_begin(void) { jm_unmap_later.depth++; }

/* Give the whole pages of [base, base + n_bytes) back: now, or at this thread's jm_unmap_end(). */
static inline void jm_unmap(void *base, size_t n_bytes, size_t page_bytes)
{
    jm_unmap_list *list = &jm_unmap_later;
    uintptr_t begin = (uintptr_t)base, end = (begin + n_bytes + page_bytes - 1) & ~(uintptr_t)(page_bytes - 1);
    if (list->depth > 0 && list->n_ranges == list->n_room) {
        size_t n_room = list->n_room ? 2 * list->n_room : 64;
        jm_range *ranges = realloc(list->ranges, n_room * sizeof *ranges);
        if (ranges != NULL) {
            list->ranges = ranges;
            list->n_room = n_room;
        }
    }
    if (list->depth > 0 && list->n_ranges < list->n_room)
        list->ranges[list->n_ranges++] = (jm_range){begin, end};
    else
        munmap(base, n_bytes);
}

static int jm_range_compare(const void *a, const void *b)
{
    uintptr_t left = ((const jm_range *)a)->begin, right = ((const jm_range *)b)->begin;
    return (left > right) - (left < right);
}

static inline void jm_unmap_end(void)
{
    jm_unmap_list *list = &jm_unmap_later;
    size_t i, last = 0;
    if (--list->depth > 0 || list->n_room == 0)
        return;
    qsort(list->ranges, list->n_ranges, sizeof *list->ranges, jm_range_compare);
    for (i = 1; i <= list->n_ranges; i++) {
        if (i < list->n_ranges && list->ranges[i].begin == list->ranges[last].end) {
            list->ranges[last].end = list->ranges[i].end;
        } else {
            munmap((void *)list->ranges[last].begin, list->ranges[last].end - list->ranges[last].begin);
            last = i;
        }
    }
    free(list->ranges);
    *list = (jm_unmap_list){0};
}

#endif
