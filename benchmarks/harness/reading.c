// Reads memory once, as fast as one core can: whole cache lines, prefetched `ahead` bytes before they are added.

#include <stddef.h>

typedef float vec __attribute__((vector_size(64)));

// Returns the sum, so that nothing is left out. bytes: a multiple of 256; memory: aligned to 64.
float read_memory(const char *memory, size_t bytes, size_t ahead)
{
    vec a = {0}, b = {0}, c = {0}, d = {0};
    for (size_t at = 0; at < bytes; at += 256) {
        const vec *line = (const vec *)(memory + at);
        if (ahead)
            for (int i = 0; i < 4; i++)
                __builtin_prefetch(memory + at + ahead + 64 * i);
        a += line[0];
        b += line[1];
        c += line[2];
        d += line[3];
    }
    vec all = a + b + c + d;
    float sum = 0;
    for (int i = 0; i < 16; i++)
        sum += all[i];
    return sum;
}
