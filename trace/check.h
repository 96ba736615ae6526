/* What a stream of events must obey so that a machine can consume it without
 * checks of its own. Freestanding. */
#ifndef TRACE_CHECK_H
#define TRACE_CHECK_H

#include "trace/event.h"

struct event_check {
    struct event_guest guest;
    unsigned va_shift; /* 64 less the bits of an address */
    int phase;         /* the open one, or -1 */
    bool ended;
    uint64_t events;
    uint64_t counts[EVENT_KINDS];
};

/* NULL, or what is impossible about the guest: levels other than 4 and 5,
 * MAXPHYADDR outside 36 to 52, RAM that is no whole number of pages, none, or
 * beyond MAXPHYADDR. */
const char *event_guest_wrong(const struct event_guest *guest);

/* The start of a stream; the guest is possible. */
void event_check_begin(struct event_check *check,
                       const struct event_guest *guest);

/*
 * Checks and counts the events in `count` words. Returns how many words are
 * whole events in order; when that is less than `count`, `*cause` says what is
 * wrong with the event behind them, which is number `check->events`, from 0.
 *
 * The rules: kinds and lengths of trace/event.h; GVAs canonical with the
 * guest's levels; a store's GVA and GPA 8-byte aligned and equal in bits 11:0;
 * GPAs below ram_bytes; a cleared page and CR3's root whole pages of RAM, CR3
 * without reserved bits and bit 63 only with PCIDs (SDM vol. 3A, 4.5); error
 * codes with P, W, U, RSVD and I only, never W with I, RSVD with P only; one
 * phase at a time, closed by its own end; nothing after EVENT_END.
 */
size_t event_check_run(struct event_check *check, const uint64_t *words,
                       size_t count, const char **cause);

#endif
