#include "harness/run_set.h"

#include "harness/environment.h"
#include "harness/figures.h"
#include "harness/summary.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *run_set_folder(const char *asked, const char *suffix, char *text,
                           size_t bytes)
{
    time_t now = time(NULL);
    struct tm local;
    size_t length;

    if (asked)
        return asked;
    length = strftime(text, bytes, "results/%Y%m%d-%H%M%S",
                      localtime_r(&now, &local));
    snprintf(text + length, bytes - length, "%s", suffix);
    return text;
}

/* A handler has no argument to find it by. */
static volatile sig_atomic_t *stop_flag(void)
{
    static volatile sig_atomic_t stop;

    return &stop;
}

static void on_signal(int signal)
{
    *stop_flag() = signal;
}

const volatile sig_atomic_t *run_set_stop(void)
{
    return stop_flag();
}

const volatile sig_atomic_t *run_set_catch(void)
{
    struct sigaction action = {.sa_handler = on_signal};

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    return stop_flag();
}

static int write_environment(const char *folder, struct why *why)
{
    char *path;
    int err;

    if (asprintf(&path, "%s/environment.json", folder) < 0)
        return why_set(why, ENOMEM, "out of memory");
    err = environment_write(path, why);
    free(path);
    return err;
}

int run_set_open(struct results **results, const char *folder, struct why *why)
{
    int err = results_create(results, folder, why);

    if (err)
        return err;
    run_set_catch();
    err = write_environment(folder, why);
    if (err)
        results_close(*results, NULL);
    return err;
}

void run_set_show(const char *command, const char *folder, bool figures)
{
    struct why why;

    if (summary_print(folder, stdout, &why))
        fprintf(stderr, "memvirt %s: %s\n", command, why.text);
    if (figures && figures_draw(folder, &why))
        fprintf(stderr, "memvirt %s: %s\n", command, why.text);
    printf("\nResults: %s\n", folder);
}
