#include "harness/lab.h"

#include "harness/technique.h"
#include "mmu/entry.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SCRIPT        MEMVIRT_ROOT "/scripts/lab/lab"
#define COMMAND       MEMVIRT_BUILD "/memvirt"
#define MACHINE_MB    1024 /* beside the largest guest */
#define BOOT_LIMIT_S  600
#define TIMEOUT_MAX_S 86400

extern char **environ;

static const char *machine_name(enum platform lab)
{
    return lab == PLATFORM_LAB_VMX ? "vmx" : "svm";
}

static int write_plan(const struct plan *plan, const char *folder,
                      struct why *why)
{
    char *path;
    FILE *file;
    int err;

    if (asprintf(&path, "%s/plan.json", folder) < 0)
        return why_set(why, ENOMEM, "out of memory");
    file = fopen(path, "we");
    err = file ? plan_write(plan, file) : -errno;
    if (file)
        fclose(file);
    if (err)
        why_say(why, "cannot write %s: %s", path, strerror(-err));
    free(path);
    return err;
}

static unsigned memory_mb(const struct plan *plan)
{
    uint64_t ram = 0;

    for (size_t i = 0; i < plan->count; i++)
        if (run_ram_bytes(&plan->specs[i]) > ram)
            ram = run_ram_bytes(&plan->specs[i]);
    return (unsigned)(ram >> 20) + MACHINE_MB;
}

/* Such pages can be had only while the machine boots. */
static unsigned pages_1g(const struct plan *plan)
{
    uint64_t most = 0;

    for (size_t i = 0; i < plan->count; i++) {
        const struct run_spec *spec = &plan->specs[i];
        bool wanted =
            spec->host_page == HOST_1G || (spec->technique == TECH_NATIVE &&
                                           spec->guest_page_bytes == PAGE_1G);
        uint64_t pages = (run_ram_bytes(spec) + PAGE_1G - 1) / PAGE_1G;

        if (wanted && pages > most)
            most = pages;
    }
    return (unsigned)most;
}

static unsigned timeout_s(const struct plan *plan)
{
    uint64_t sum = BOOT_LIMIT_S;

    for (size_t i = 0; i < plan->count; i++)
        sum += plan->specs[i].time_limit_s;
    return sum > TIMEOUT_MAX_S ? TIMEOUT_MAX_S : (unsigned)sum;
}

static int spawn(const struct lab_job *job, const char *folder, int out,
                 pid_t *pid)
{
    char *plan, memory[16], huge_1g[16], timeout[16], first_id[16];
    posix_spawn_file_actions_t actions;
    int err;

    snprintf(memory, sizeof memory, "%u", memory_mb(job->plan));
    snprintf(huge_1g, sizeof huge_1g, "%u", pages_1g(job->plan));
    snprintf(timeout, sizeof timeout, "%u", timeout_s(job->plan));
    snprintf(first_id, sizeof first_id, "%u", job->first_id);
    if (asprintf(&plan, "%s/plan.json:/plan.json", folder) < 0)
        return -ENOMEM;
    /* The script brings this folder's programs along. */
    setenv("MEMVIRT_BUILD_DIR", MEMVIRT_BUILD, 0);
    char *argv[] = {SCRIPT,         "--machine", (char *)machine_name(job->lab),
                    "--memory",     memory,      "--huge-1g",
                    huge_1g,        "--timeout", timeout,
                    "--file",       plan,        "--out",
                    (char *)folder, "--",        COMMAND,
                    "run",          "--plan",    "/plan.json",
                    "--first-id",   first_id,    "--switch-kvm",
                    "-o",           "/out/run",  NULL};
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null",
                                     O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out, STDERR_FILENO);
    err = posix_spawn(pid, SCRIPT, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    free(plan);
    return -err;
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), tail = strlen(end);

    return length >= tail && !strcmp(text + length - tail, end);
}

/* Steps of the lab's own progress ("[3/20] ...") count as ours; the rest of
 * its output is kept for the sentence of a failure. Ends with the output, or
 * when a signal interrupts it. */
static void follow(struct lab_job *job, FILE *output, struct progress *progress,
                   char *last, size_t room)
{
    char *line = NULL;
    size_t length = 0;

    while (!*job->stop && getline(&line, &length, output) > 0) {
        unsigned step, total;
        int at = 0;

        line[strcspn(line, "\r\n")] = 0;
        if (sscanf(line, "[%u/%u] %n", &step, &total, &at) == 2 && at) {
            job->failed += ends_with(line, " failed");
            progress_step(progress, line + at);
        } else if (*line) {
            snprintf(last, room, "%s", line);
            progress_note(progress, line);
        }
    }
    free(line);
}

/* The script ends its machine when it is asked to end. */
static int reap(pid_t pid, const volatile sig_atomic_t *stop)
{
    int status = 0;

    if (*stop)
        kill(pid, SIGTERM);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        if (*stop)
            kill(pid, SIGTERM);
    return status;
}

int lab_run(struct lab_job *job, const char *folder, struct progress *progress,
            struct why *why)
{
    char last[240] = "it said nothing";
    int pipe[2], status, err = write_plan(job->plan, folder, why);
    FILE *output;
    pid_t pid;

    if (err)
        return err;
    if (pipe2(pipe, O_CLOEXEC))
        return why_set(why, errno, "cannot make a pipe: %s", strerror(errno));
    err = spawn(job, folder, pipe[1], &pid);
    close(pipe[1]);
    output = err ? NULL : fdopen(pipe[0], "r");
    if (output)
        follow(job, output, progress, last, sizeof last);
    status = err ? 0 : reap(pid, job->stop);
    if (output)
        fclose(output);
    else
        close(pipe[0]);
    if (err)
        return why_set(why, -err, "cannot start " SCRIPT ": %s",
                       strerror(-err));
    if (*job->stop)
        return -EINTR;
    /* 1: some of its runs failed, which are rows */
    if (!WIFEXITED(status) || WEXITSTATUS(status) > 1)
        return why_set(why, EIO, "the %s lab failed: %s",
                       machine_name(job->lab), last);
    return 0;
}
