/*
 * A guest of direct paging, and an oracle that after each of its operations
 * computes anew, from what is in the tables, which frame is a page table or
 * writable and how often. It shares no code with directpt/.
 *
 * RAM is small and has a hole that splits a large page; most tables are in the
 * part of RAM that no large page maps.
 */
#ifndef TESTS_DIRECT_ORACLE_H
#define TESTS_DIRECT_ORACLE_H

#include <stdint.h>

enum direct_act {
    ACT_STORE, /* the guest's own, into a frame that is no table; the CPU sets
                  A and D in one that is */
    ACT_UPDATE,
    ACT_PIN,
    ACT_UNPIN,
    ACT_GET_ROOT,
    ACT_PUT_ROOT,
    ACT_CLEAR,
    ACTS
};

enum direct_error { ERROR_NONE, ERROR_INVAL, ERROR_FAULT, ERROR_BUSY, ERRORS };

struct direct_guest;

/* NULL when memory is short. */
struct direct_guest *direct_guest_new(void);
void direct_guest_free(struct direct_guest *g);

/* One operation, chosen by the bits of both words: NULL, or what is wrong
 * afterwards. */
const char *direct_guest_step(struct direct_guest *g, uint64_t choice,
                              uint64_t value);

/* All of memory, which each step looks at only in part. */
const char *direct_guest_check_all(const struct direct_guest *g);

/* Operations of a kind that ended so. */
uint64_t direct_guest_ended(const struct direct_guest *g, enum direct_act act,
                            enum direct_error error);
/* Most frames that were tables of a level at once; 0: writable mappings of the
 * large page. */
unsigned direct_guest_most(const struct direct_guest *g, unsigned level);
uint64_t direct_guest_flushes(const struct direct_guest *g);

#endif
