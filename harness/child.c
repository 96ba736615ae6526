#include "harness/child.h"

#include "harness/technique.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define GRACE_S    10         /* beyond the run's own time limit */
#define RECORD_MAX (64 << 20) /* bytes of JSON */

extern char **environ;

/* ---- The child --------------------------------------------------------- */

static char *read_all(FILE *file)
{
    char *text = NULL;
    size_t room = 0;

    return getdelim(&text, &room, EOF, file) < 0 ? NULL : text;
}

int cmd_one_run(int argc, char **argv)
{
    char *input = read_all(stdin), *output;
    struct run_record record;
    struct run_spec spec;
    struct why why;

    (void)argc, (void)argv;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (!input || run_spec_from_json(input, &spec, &why)) {
        fprintf(stderr, "memvirt one-run: %s\n",
                input ? why.text : "no spec on standard input");
        return 2;
    }
    free(input);
    technique_run(&spec, &record);
    output = run_record_to_json(&record);
    run_record_free(&record);
    if (!output || puts(output) < 0 || fflush(stdout))
        return 1;
    free(output);
    return 0;
}

/* ---- The parent -------------------------------------------------------- */

struct child {
    pid_t pid;
    int out; /* its standard output, or -1 */
};

static int start(const struct run_spec *spec, struct child *child)
{
    char *argv[] = {"memvirt", "one-run", NULL};
    char *json = run_spec_to_json(spec);
    posix_spawn_file_actions_t actions;
    int in[2] = {-1, -1}, out[2] = {-1, -1}, err = json ? 0 : ENOMEM;

    if (!err && (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC)))
        err = errno;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    if (!err)
        err = posix_spawn(&child->pid, "/proc/self/exe", &actions, NULL, argv,
                          environ);
    posix_spawn_file_actions_destroy(&actions);
    /* A spec is far smaller than a pipe's buffer: this does not block. */
    if (!err && write(in[1], json, strlen(json)) < 0)
        err = errno;
    free(json);
    close(in[0]);
    close(in[1]);
    close(out[1]);
    child->out = out[0];
    return -err;
}

struct text {
    char *bytes;
    size_t count, room;
};

/* Reads what there is: 1 more may come, 0 at the end, negative errno. */
static int read_some(int fd, struct text *text)
{
    ssize_t got;

    if (text->room - text->count < 4096) {
        size_t room = text->room ? 2 * text->room : 1 << 16;
        char *grown = room > RECORD_MAX ? NULL : realloc(text->bytes, room);

        if (!grown)
            return -ENOMEM;
        text->bytes = grown;
        text->room = room;
    }
    got = read(fd, text->bytes + text->count, text->room - text->count - 1);
    if (got < 0)
        return errno == EINTR ? 1 : -errno;
    text->count += (size_t)got;
    text->bytes[text->count] = 0;
    return got > 0;
}

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000ll + now.tv_nsec / 1000000;
}

/* The child's whole output; -ETIME, -EINTR or another errno otherwise. */
static int collect(const struct child *child, unsigned limit_s,
                   const volatile sig_atomic_t *stop, struct text *text)
{
    int64_t deadline = now_ms() + (limit_s + GRACE_S) * 1000ll;
    struct pollfd wait = {.fd = child->out, .events = POLLIN};
    int more = 1;

    while (more > 0) {
        if (*stop)
            return -EINTR;
        if (limit_s && now_ms() > deadline)
            return -ETIME;
        if (poll(&wait, 1, 100) > 0)
            more = read_some(child->out, text);
    }
    return more;
}

/* Asks first, so that the child's own cleaning up can run. */
static int end_child(pid_t pid, bool ask)
{
    const struct timespec nap = {.tv_nsec = 10 * 1000 * 1000};
    int status = 0;

    if (ask)
        kill(pid, SIGTERM);
    for (int i = 0; ask && i < 200; i++) {
        if (waitpid(pid, &status, WNOHANG) == pid)
            return status;
        nanosleep(&nap, NULL);
    }
    if (ask)
        kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status;
}

static void failed(struct run_record *record, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void failed(struct run_record *record, const char *format, ...)
{
    va_list args;

    *record = (struct run_record){.status = RUN_FAILED};
    va_start(args, format);
    vsnprintf(record->message, sizeof record->message, format, args);
    va_end(args);
}

int child_run(const struct run_spec *spec, struct run_record *record,
              const volatile sig_atomic_t *stop)
{
    struct child child = {-1, -1};
    struct text text = {NULL, 0, 0};
    struct why why = {""};
    int err = start(spec, &child), status;

    if (err) {
        failed(record, "cannot start a process: %s", strerror(-err));
        return 0;
    }
    err = collect(&child, spec->time_limit_s, stop, &text);
    status = end_child(child.pid, err);
    close(child.out);
    if (err == -ETIME)
        failed(record,
               "the time limit of %u s passed; raise it with --time-limit",
               spec->time_limit_s);
    else if (!err && WIFSIGNALED(status))
        failed(record, "the run's process was killed by signal %d (%s)",
               WTERMSIG(status), strsignal(WTERMSIG(status)));
    else if (!err && run_record_from_json(text.bytes, record, &why))
        failed(record, "the run's process ended with status %d: %s",
               WEXITSTATUS(status), why.text);
    else if (err && err != -EINTR)
        failed(record, "cannot read the run's record: %s", strerror(-err));
    free(text.bytes);
    return err == -EINTR ? err : 0;
}
