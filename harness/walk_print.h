/* An explained walk on paper. */
#ifndef HARNESS_WALK_PRINT_H
#define HARNESS_WALK_PRINT_H

#include "harness/walk_explain.h"

#include <jansson.h>
#include <stdio.h>

/* Aligned, within 100 columns for tables an operating system would make. */
void walk_print_text(FILE *to, const struct walk_question *question,
                     const struct walk_answer *answer);

/* The same as one object; addresses and entries are strings of hexadecimal
 * digits, since not every reader has integers of 64 bits. NULL: no memory. */
json_t *walk_print_json(const struct walk_question *question,
                        const struct walk_answer *answer);

/* "24 references cold; ...", for both. */
void walk_summary(const struct walk_question *question,
                  const struct walk_answer *answer, char *text, size_t bytes);

#endif
