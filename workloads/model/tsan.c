/*
 * What gcc -fsanitize=thread calls before each access, and instead of each
 * atomic operation. A call of anything that is not here does not link.
 */
#include "workloads/model/tracer.h"

void __tsan_init(void);
void __tsan_read_range(void *at, long bytes);
void __tsan_write_range(void *at, long bytes);

void __tsan_init(void)
{
}

static inline void known_or_call_out(uint64_t va, uint64_t bytes, bool write)
{
    if (__builtin_expect(tracer_hit(va, write, 12), 1))
        tracer_push(event_word(write ? EVENT_WRITE : EVENT_READ, va));
    else
        tracer_call_out(va, bytes, write ? MMU_WRITE : MMU_READ);
}

/* Aligned: they cross nothing. */
#define ACCESS(bytes)                                  \
    void __tsan_read##bytes(void *at);                 \
    void __tsan_write##bytes(void *at);                \
    void __tsan_read##bytes(void *at)                  \
    {                                                  \
        known_or_call_out((uint64_t)at, bytes, false); \
    }                                                  \
    void __tsan_write##bytes(void *at)                 \
    {                                                  \
        known_or_call_out((uint64_t)at, bytes, true);  \
    }

ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)

#define UNALIGNED(bytes)                                 \
    void __tsan_unaligned_read##bytes(void *at);         \
    void __tsan_unaligned_write##bytes(void *at);        \
    void __tsan_unaligned_read##bytes(void *at)          \
    {                                                    \
        tracer_call_out((uint64_t)at, bytes, MMU_READ);  \
    }                                                    \
    void __tsan_unaligned_write##bytes(void *at)         \
    {                                                    \
        tracer_call_out((uint64_t)at, bytes, MMU_WRITE); \
    }

UNALIGNED(2)
UNALIGNED(4)
UNALIGNED(8)
UNALIGNED(16)

/* Copies and initializations of whole structures, in words. */
static void range(uint64_t at, uint64_t bytes, enum mmu_access access)
{
    for (uint64_t i = 0; i < bytes; i += 8)
        tracer_call_out(at + i, bytes - i < 8 ? bytes - i : 8, access);
}

void __tsan_read_range(void *at, long bytes)
{
    range((uint64_t)at, (uint64_t)bytes, MMU_READ);
}

void __tsan_write_range(void *at, long bytes)
{
    range((uint64_t)at, (uint64_t)bytes, MMU_WRITE);
}

/* One CPU executes them, so that any order will do: a read-modify-write is
 * one access, a write. */
#define ATOMIC_UPDATE(bits, name, builtin)                   \
    uint##bits##_t __tsan_atomic##bits##_##name(             \
        volatile void *at, uint##bits##_t value, int order); \
    uint##bits##_t __tsan_atomic##bits##_##name(             \
        volatile void *at, uint##bits##_t value, int order)  \
    {                                                        \
        (void)order;                                         \
        known_or_call_out((uint64_t)at, bits / 8, true);     \
        return builtin((volatile uint##bits##_t *)at, value, \
                       __ATOMIC_SEQ_CST);                    \
    }

#define ATOMIC(bits)                                                          \
    uint##bits##_t __tsan_atomic##bits##_load(const volatile void *at,        \
                                              int order);                     \
    void __tsan_atomic##bits##_store(volatile void *at, uint##bits##_t value, \
                                     int order);                              \
    uint##bits##_t __tsan_atomic##bits##_load(const volatile void *at,        \
                                              int order)                      \
    {                                                                         \
        (void)order;                                                          \
        known_or_call_out((uint64_t)at, bits / 8, false);                     \
        return __atomic_load_n((const volatile uint##bits##_t *)at,           \
                               __ATOMIC_SEQ_CST);                             \
    }                                                                         \
    void __tsan_atomic##bits##_store(volatile void *at, uint##bits##_t value, \
                                     int order)                               \
    {                                                                         \
        (void)order;                                                          \
        known_or_call_out((uint64_t)at, bits / 8, true);                      \
        __atomic_store_n((volatile uint##bits##_t *)at, value,                \
                         __ATOMIC_SEQ_CST);                                   \
    }                                                                         \
    ATOMIC_UPDATE(bits, exchange, __atomic_exchange_n)                        \
    ATOMIC_UPDATE(bits, fetch_add, __atomic_fetch_add)                        \
    ATOMIC_UPDATE(bits, fetch_sub, __atomic_fetch_sub)                        \
    ATOMIC_UPDATE(bits, fetch_and, __atomic_fetch_and)                        \
    ATOMIC_UPDATE(bits, fetch_or, __atomic_fetch_or)                          \
    ATOMIC_UPDATE(bits, fetch_xor, __atomic_fetch_xor)

ATOMIC(32)
ATOMIC(64)
