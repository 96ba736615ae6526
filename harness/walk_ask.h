/* Parts of `memvirt walk`'s command line: what people write into a question.
 * All give -EINVAL with the sentence. For cmd_walk.c. */
#ifndef HARNESS_WALK_ASK_H
#define HARNESS_WALK_ASK_H

#include "harness/walk_explain.h"

#include <stdio.h>

/* "0x7f1234567abc", or decimal. `what` names it in the sentence. */
int walk_ask_value(const char *text, const char *what, uint64_t *value,
                   struct why *why);

/* One or more of the letters, as "rwx", or "none": the same letters as bits 0,
 * 1, ... of `mask`. */
int walk_ask_letters(const char *text, const char *what, const char *letters,
                     unsigned *mask, struct why *why);

/* "smep,-wp": switches of the CPU, on or, with a minus, off. */
int walk_ask_state(const char *text, struct walk_question *question,
                   struct why *why);

/* "pte:-rw+xd", "leaf:=0x0", "pde/ept-pte:-w": changes an entry; the question's
 * format and mbec are final. */
int walk_ask_entry(const char *text, struct walk_question *question,
                   struct why *why);

/* "read-only", "not-present@pde": one of the endings, by the changes that
 * bring it about. */
int walk_ask_end(const char *text, struct walk_question *question,
                 struct why *why);

/* The list of endings, for --help. */
void walk_ask_ends(FILE *to);

#endif
