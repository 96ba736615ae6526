#include "harness/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct guard {
    int pipe; /* its end of file is the caller's end */
};

static void let_go_of_everything(int pipe)
{
    static const int quiet[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE};
    int null = open("/dev/null", O_RDWR);

    for (unsigned i = 0; i < sizeof quiet / sizeof quiet[0]; i++)
        signal(quiet[i], SIG_IGN);
    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    dup2(pipe, 3);
    close_range(4, ~0u, 0);
    if (chdir("/"))
        return;
    prctl(PR_SET_NAME, "memvirt-guard");
}

static void watch(int pipe, void (*cleanup)(void *arg), void *arg)
{
    ssize_t length;
    char byte;

    let_go_of_everything(pipe);
    do
        length = read(3, &byte, 1);
    while (length < 0 && errno == EINTR);
    if (length == 0)
        cleanup(arg);
    _exit(0);
}

/* Forks twice, so that the watcher belongs to init. */
static int fork_watcher(int pipe, void (*cleanup)(void *arg), void *arg)
{
    pid_t middle = fork();
    int status;

    if (middle < 0)
        return -errno;
    if (!middle) {
        pid_t watcher;

        setsid();
        watcher = fork();
        if (!watcher)
            watch(pipe, cleanup, arg);
        _exit(watcher < 0);
    }
    while (waitpid(middle, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return status ? -EAGAIN : 0;
}

int guard_start(struct guard **guard, void (*cleanup)(void *arg), void *arg,
                struct why *why)
{
    struct guard *new = malloc(sizeof *new);
    int ends[2], err;

    if (!new)
        return why_set(why, ENOMEM, "out of memory");
    if (pipe2(ends, O_CLOEXEC)) {
        err = errno;
        free(new);
        return why_set(why, err, "no pipe for the guard process: %s",
                       strerror(err));
    }
    new->pipe = ends[1];
    err = fork_watcher(ends[0], cleanup, arg);
    close(ends[0]);
    if (err) {
        close(ends[1]);
        free(new);
        return why_set(why, -err, "cannot start the guard process: %s",
                       strerror(-err));
    }
    *guard = new;
    return 0;
}

void guard_dismiss(struct guard *guard)
{
    if (!guard)
        return;
    while (write(guard->pipe, "d", 1) < 0 && errno == EINTR)
        ;
    close(guard->pipe);
    free(guard);
}
