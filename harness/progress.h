/* How far a long command is: a bar on a terminal, a line a step elsewhere. */
#ifndef HARNESS_PROGRESS_H
#define HARNESS_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>

struct progress {
    size_t done, total;
    bool bar;
};

/* Progress goes to standard error. */
void progress_start(struct progress *progress, size_t total);
/* One step is done; `text` says what it was. */
void progress_step(struct progress *progress, const char *text);
/* What is under way now, on the bar only. */
void progress_note(const struct progress *progress, const char *text);
void progress_end(const struct progress *progress);

#endif
