/* Invariants: what cannot be false while the code is right. A debug build (setup.py defines JM_CHECKED) stops at the first
   that is, with file, line, expression and two values; a release build does not even compute them. What a caller can
   get wrong is no invariant: that is reported, as a status or an exception. After mimalloc's mi_assert_internal. */
#ifndef JESSY_MEM_ASSERT_H
#define JESSY_MEM_ASSERT_H

#include <stdint.h>

#ifndef JM_CHECKED
#define JM_CHECKED 0
#endif

#if JM_CHECKED
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static __attribute__((noinline, noreturn, cold)) void jm_assert_fail(
    const char *file, int line, const char *expression, uint64_t left, uint64_t right)
{
    static const char prefix[] = "__pyx_v_"; /* Cython's, of every variable */
    fprintf(stderr, "%s:%d: jessy_mem: broken invariant: ", file, line);
    while (*expression != 0) {
        if (strncmp(expression, prefix, sizeof prefix - 1) == 0)
            expression += sizeof prefix - 1;
        else
            fputc(*expression++, stderr);
    }
    fprintf(stderr, " (%" PRIu64 ", %" PRIu64 ")\n", left, right);
    abort();
}

#define jm_assert(condition, left, right) \
    ((condition) ? (void)0 : jm_assert_fail(__FILE__, __LINE__, #condition, (uint64_t)(left), (uint64_t)(right)))
#else
#define jm_assert(condition, left, right) ((void)sizeof((condition) + (left) + (right)))
#endif

#endif
