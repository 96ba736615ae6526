#include "harness/progress.h"

#include <stdio.h>
#include <unistd.h>

#define BAR_WIDTH 24

void progress_start(struct progress *progress, size_t total)
{
    *progress = (struct progress){
        .total = total,
        .bar = isatty(STDERR_FILENO),
    };
}

void progress_note(const struct progress *progress, const char *text)
{
    size_t filled =
        progress->total ? progress->done * BAR_WIDTH / progress->total : 0;

    if (!progress->bar)
        return;
    fprintf(stderr, "\r\033[K[");
    for (size_t i = 0; i < BAR_WIDTH; i++)
        fputc(i < filled ? '#' : '.', stderr);
    fprintf(stderr, "] %zu/%zu %.48s", progress->done, progress->total, text);
}

void progress_step(struct progress *progress, const char *text)
{
    progress->done++;
    if (progress->bar)
        progress_note(progress, text);
    else
        fprintf(stderr, "[%zu/%zu] %s\n", progress->done, progress->total,
                text);
}

void progress_end(const struct progress *progress)
{
    if (progress->bar)
        fprintf(stderr, "\r\033[K");
}
