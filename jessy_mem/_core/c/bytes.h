/* Many bytes at once, where a processor can look at so many. */
#ifndef JESSY_MEM_BYTES_H
#define JESSY_MEM_BYTES_H

#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

/* Bit i: byte i of 32 has its highest bit, so that it is not ASCII. */
static inline uint32_t jm_high_bits(const uint8_t *first)
{
#if defined(__SSE2__)
    __m128i low = _mm_loadu_si128((const __m128i *)(const void *)first);
    __m128i high = _mm_loadu_si128((const __m128i *)(const void *)(first + 16));
    return (uint32_t)_mm_movemask_epi8(low) | (uint32_t)_mm_movemask_epi8(high) << 16;
#else
    uint32_t bits = 0;
    int i;
    for (i = 0; i < 32; i += 8) {
        uint64_t word;
        memcpy(&word, first + i, 8);
        /* The product moves the eight bits side by side into its highest byte. */
        bits |= (uint32_t)((word >> 7 & 0x0101010101010101ull) * 0x0102040810204080ull >> 56) << i;
    }
    return bits;
#endif
}

/* Ask for the cache line of an address that is read soon. */
static inline void jm_prefetch_line(const void *address) { __builtin_prefetch(address); }

#endif
