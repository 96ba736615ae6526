/* What gcc expects of every environment, a freestanding one too (gcc's
 * manual, 2.1). Only the monitor's image has it. */
#include <stddef.h>
#include <stdint.h>

void *memset(void *to, int value, size_t bytes) __attribute__((used));
void *memcpy(void *to, const void *from, size_t bytes) __attribute__((used));

void *memset(void *to, int value, size_t bytes)
{
    uint64_t word = (uint8_t)value * 0x0101010101010101ull;
    size_t words = bytes / 8, rest = bytes % 8;
    void *at = to;

    __asm__ volatile("rep stosq"
                     : "+D"(at), "+c"(words)
                     : "a"(word)
                     : "memory");
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(rest) : "a"(word) : "memory");
    return to;
}

void *memcpy(void *to, const void *from, size_t bytes)
{
    size_t words = bytes / 8, rest = bytes % 8;
    void *at = to;

    __asm__ volatile("rep movsq" : "+D"(at), "+S"(from), "+c"(words)::"memory");
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(rest)::"memory");
    return to;
}
