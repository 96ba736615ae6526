#include "workloads/model/ring.h"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Whoever waits looks again after this long: the other side may have died, or
 * have little to say. */
#define LOOK_AGAIN_NS (20 * 1000 * 1000)

static size_t bytes_of(unsigned batches)
{
    return sizeof(struct ring) + batches * sizeof((struct ring *)0)->batch[0];
}

struct ring *ring_create(unsigned batches)
{
    struct ring *ring = mmap(NULL, bytes_of(batches), PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (ring == MAP_FAILED)
        return NULL;
    ring->batches = batches;
    return ring;
}

void ring_destroy(struct ring *ring)
{
    if (ring)
        munmap(ring, bytes_of(ring->batches));
}

static uint32_t filled(const struct ring *ring)
{
    return __atomic_load_n(&ring->produced, __ATOMIC_SEQ_CST) -
           __atomic_load_n(&ring->consumed, __ATOMIC_SEQ_CST);
}

static bool is_open(const struct ring *ring)
{
    return __atomic_load_n(&ring->state, __ATOMIC_SEQ_CST) == RING_OPEN;
}

static void toll(struct ring_bell *bell)
{
    __atomic_fetch_add(&bell->rung, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&bell->sleeps, __ATOMIC_SEQ_CST))
        syscall(SYS_futex, &bell->rung, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* Sleeps until the bell is rung, or for a while, unless `ready` already. */
static void listen_for(struct ring_bell *bell, const struct ring *ring,
                       bool (*ready)(const struct ring *ring))
{
    const struct timespec while_ = {.tv_nsec = LOOK_AGAIN_NS};
    uint32_t rung;

    __atomic_store_n(&bell->sleeps, 1, __ATOMIC_SEQ_CST);
    rung = __atomic_load_n(&bell->rung, __ATOMIC_SEQ_CST);
    if (!ready(ring))
        syscall(SYS_futex, &bell->rung, FUTEX_WAIT, rung, &while_, NULL, 0);
    __atomic_store_n(&bell->sleeps, 0, __ATOMIC_SEQ_CST);
}

static bool has_room(const struct ring *ring)
{
    return filled(ring) < ring->batches;
}

static bool has_data(const struct ring *ring)
{
    return filled(ring) || !is_open(ring);
}

uint64_t *ring_room(struct ring *ring)
{
    if (!has_room(ring))
        toll(&ring->data);
    while (!has_room(ring))
        listen_for(&ring->room, ring, has_room);
    return ring->batch[ring->produced % ring->batches];
}

/* Either side wakes the other when half of the ring is worth it, so that two
 * that are equally fast do not wake each other for every batch. */
void ring_submit(struct ring *ring, size_t words)
{
    ring->words[ring->produced % ring->batches] = (uint32_t)words;
    __atomic_fetch_add(&ring->produced, 1, __ATOMIC_SEQ_CST);
    if (filled(ring) == ring->batches / 2)
        toll(&ring->data);
}

void ring_finish(struct ring *ring, enum ring_state state)
{
    __atomic_store_n(&ring->state, state, __ATOMIC_SEQ_CST);
    toll(&ring->data);
}

const uint64_t *ring_data(struct ring *ring, size_t *words)
{
    uint32_t slot = ring->consumed % ring->batches;

    if (!filled(ring))
        listen_for(&ring->data, ring, has_data);
    if (!filled(ring))
        return NULL;
    *words = ring->words[slot];
    return ring->batch[slot];
}

void ring_release(struct ring *ring)
{
    __atomic_fetch_add(&ring->consumed, 1, __ATOMIC_SEQ_CST);
    if (filled(ring) == ring->batches / 2)
        toll(&ring->room);
}

bool ring_ended(const struct ring *ring)
{
    return !is_open(ring) && !filled(ring);
}
