/* A hash of bytes that nobody can make collide who does not know its seeds. */
#ifndef JESSY_MEM_MIX_H
#define JESSY_MEM_MIX_H

#include <stdint.h>
#include <string.h>

__extension__ typedef unsigned __int128 jm_uint128;

/* The product of two numbers, both halves folded into one: what is unknown of either reaches all bits. */
static inline uint64_t jm_mix(uint64_t a, uint64_t b)
{
    jm_uint128 product = (jm_uint128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t jm_hash(const uint8_t *first, uint32_t n_bytes, const uint64_t *seeds)
{
    uint64_t hash = seeds[0] ^ n_bytes, word;
    for (; n_bytes >= 8; first += 8, n_bytes -= 8) {
        memcpy(&word, first, 8);
        hash = jm_mix(hash ^ word, seeds[1]);
    }
    word = 0;
    memcpy(&word, first, n_bytes);
    return jm_mix(hash ^ word, seeds[1]);
}

#endif
