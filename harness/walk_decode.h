/*
 * What entries, error codes and exit qualifications say, bit by bit, in the
 * manuals' names (SDM vol. 3A, 4.5 and 4.7; vol. 3C, 28.2.1 and 29.3.2; APM
 * vol. 2, 5.3, 15.25).
 */
#ifndef HARNESS_WALK_DECODE_H
#define HARNESS_WALK_DECODE_H

#include "harness/walk_explain.h"

struct walk_flag {
    char name[12];
    const char *meaning;
    uint64_t bits;
};

#define WALK_FLAGS_MAX 64

/* One entry as it was read. */
struct walk_entry {
    bool present, leaf, reserved; /* reserved: a bit is set that may not be */
    uint64_t target;              /* the table or page it refers to; 0: none */
    uint64_t page_bytes;          /* of a leaf */
    unsigned flags;
    struct walk_flag flag[WALK_FLAGS_MAX];
};

void walk_decode_entry(const struct walk_question *question,
                       const struct walk_row *row, struct walk_entry *entry);

/* The bits set in a page fault's error code, EXITINFO1 or an EPT violation's
 * exit qualification; and, of the two first, P clear. How many. */
unsigned walk_decode_error(uint64_t error,
                           struct walk_flag flags[static WALK_FLAGS_MAX]);
unsigned walk_decode_qualification(
    uint64_t qualification, struct walk_flag flags[static WALK_FLAGS_MAX]);

/* "translated", "page_fault", ... */
const char *walk_end_name(enum walk_end end);

/* A sentence or two: how the pass ended and which entry made it so, and who
 * acts next. */
void walk_decode_end(const struct walk_question *question,
                     const struct walk_pass *pass, char *text, size_t bytes);

/* "PDE", "EPT PTE", "NPT PTE", "shadow PTE". */
const char *walk_row_name(const struct walk_question *question,
                          const struct walk_row *row);

/* "native", "nested", "shadow". */
const char *walk_technique_name(enum walk_technique technique);

#endif
