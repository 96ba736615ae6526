#include "harness/execute.h"

#include "base/parse.h"
#include "ept/kvm_switch.h"
#include "harness/child.h"
#include "harness/progress.h"
#include "harness/technique.h"
#include "mmu/entry.h"
#include "workloads/catalog.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define LAB_SCRIPT    MEMVIRT_ROOT "/scripts/lab/lab"
#define LAB_MB        1024 /* beside the largest guest */
#define LAB_TIMEOUT_S 1800

extern char **environ;

/* ---- Runs of this machine ---------------------------------------------- */

/* The bare machine is QEMU, started from here. */
static bool is_bare(const struct run_spec *spec)
{
    return spec->technique == TECH_NATIVE &&
           native_is_bare(spec, workload_find(spec->workload));
}

static bool runs_here(const struct run_spec *spec)
{
    enum platform here = platform_here();

    return here == PLATFORM_HOST
               ? spec->platform == PLATFORM_HOST || is_bare(spec)
               : spec->platform == here && !is_bare(spec);
}

static void describe(const struct run_spec *spec, const char *status,
                     char *text, size_t bytes)
{
    char size[32];

    snprintf(text, bytes, "%-8s %-9s %-10s %6s %s",
             platform_name(spec->platform), technique_name(spec->technique),
             spec->workload,
             spec->working_set_bytes
                 ? format_size(spec->working_set_bytes, size, sizeof size)
                 : "",
             status);
}

static void count(struct execution *execution, const struct run_record *record)
{
    execution->done++;
    execution->failed += record->status == RUN_FAILED;
    execution->unsupported += record->status == RUN_UNSUPPORTED;
}

/* Turns the host's switch where that is allowed; a run then says itself
 * whether it stands right. */
static void turn_switch(struct kvm_switch *kvm, const struct run_spec *spec)
{
    struct why why;

    if (kvm && spec->technique == TECH_SHADOW)
        kvm_switch_set(kvm, KVM_PAGING_SHADOW, &why);
    else if (kvm && spec->technique == TECH_NESTED)
        kvm_switch_set(kvm, KVM_PAGING_NESTED, &why);
}

static int run_here(struct execution *execution, struct progress *progress,
                    struct kvm_switch *kvm, const struct run_spec *spec,
                    struct why *why)
{
    struct run_record record;
    char text[96];
    int err;

    describe(spec, "", text, sizeof text);
    progress_note(progress, text);
    turn_switch(kvm, spec);
    err = child_run(spec, &record, execution->stop);
    if (err)
        return err;
    count(execution, &record);
    err = results_add(execution->results, spec, &record, why);
    describe(spec, status_name(record.status), text, sizeof text);
    progress_step(progress, text);
    run_record_free(&record);
    return err;
}

static int run_all_here(struct execution *execution, struct progress *progress,
                        struct why *why)
{
    struct kvm_switch *kvm = NULL;
    int err = 0;

    if (execution->switch_kvm)
        err = kvm_switch_open(&kvm_host_linux, &kvm, why);
    for (size_t i = 0; !err && i < execution->plan->count; i++) {
        const struct run_spec *spec = &execution->plan->specs[i];

        if (*execution->stop)
            err = -EINTR;
        else if (runs_here(spec))
            err = run_here(execution, progress, kvm, spec, why);
    }
    if (kvm) {
        struct why close_why;
        int close_err = kvm_switch_close(kvm, &close_why);

        if (!err && close_err)
            err = why_set(why, -close_err, "%s", close_why.text);
    }
    return err;
}

/* ---- Runs in a lab ----------------------------------------------------- */

static int remove_entry(const char *path, const struct stat *st, int type,
                        struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static struct plan lab_part(const struct plan *plan, enum platform lab,
                            uint64_t *ram)
{
    struct plan part = {calloc(plan->count, sizeof *plan->specs), 0, 0};

    *ram = 0;
    for (size_t i = 0; part.specs && i < plan->count; i++) {
        const struct run_spec *spec = &plan->specs[i];
        uint64_t bytes = run_ram_bytes(spec);

        if (spec->platform != lab || runs_here(spec))
            continue;
        part.specs[part.count++] = *spec;
        if (bytes > *ram)
            *ram = bytes;
    }
    return part;
}

static int write_plan(const struct plan *plan, const char *path,
                      struct why *why)
{
    FILE *file = fopen(path, "we");
    int err = file ? plan_write(plan, file) : -errno;

    if (file)
        fclose(file);
    return err ? why_set(why, -err, "cannot write %s: %s", path, strerror(-err))
               : 0;
}

/* Steps of the lab's own progress ("[3/20] ...") count as ours; the rest of
 * its output is kept for the sentence of a failure. */
static void follow(FILE *output, struct progress *progress, char *last,
                   size_t room)
{
    char *line = NULL;
    size_t length = 0;

    while (getline(&line, &length, output) > 0) {
        unsigned step, total;
        int at = 0;

        line[strcspn(line, "\r\n")] = 0;
        if (sscanf(line, "[%u/%u] %n", &step, &total, &at) == 2 && at)
            progress_step(progress, line + at);
        else if (*line)
            snprintf(last, room, "%s", line);
        if (*line && !at)
            progress_note(progress, line);
    }
    free(line);
}

static int start_lab(const struct execution *execution, enum platform lab,
                     uint64_t ram, const char *folder, pid_t *pid, int *output)
{
    char plan[4200], memory[32], timeout[32], command[160];
    char *argv[] = {
        LAB_SCRIPT, "--machine",    lab == PLATFORM_LAB_VMX ? "vmx" : "svm",
        "--memory", memory,         "--timeout",
        timeout,    "--file",       plan,
        "--out",    (char *)folder, "--",
        "sh",       "-c",           command,
        NULL};
    posix_spawn_file_actions_t actions;
    int out[2], err;

    snprintf(plan, sizeof plan, "%s/plan.json:/plan.json", folder);
    snprintf(memory, sizeof memory, "%u", (unsigned)(ram / (1 << 20)) + LAB_MB);
    snprintf(timeout, sizeof timeout, "%d", LAB_TIMEOUT_S);
    snprintf(command, sizeof command,
             MEMVIRT_BUILD "/memvirt run --plan /plan.json --first-id %u "
                           "--switch-kvm -o /out/run",
             results_next_id(execution->results, lab));
    if (pipe2(out, O_CLOEXEC))
        return -errno;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null",
                                     O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDERR_FILENO);
    err = posix_spawn(pid, LAB_SCRIPT, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(out[1]);
    if (err)
        close(out[0]);
    *output = out[0];
    return -err;
}

/* The folder's own plan and results are merged and then removed. */
static int run_in_folder(struct execution *execution, struct progress *progress,
                         enum platform lab, const struct plan *part,
                         uint64_t ram, const char *folder, struct why *why)
{
    const char *machine = lab == PLATFORM_LAB_VMX ? "vmx" : "svm";
    char path[4200], last[200] = "it said nothing";
    int output = -1, status = 0, err;
    FILE *stream;
    pid_t pid;

    snprintf(path, sizeof path, "%s/plan.json", folder);
    err = write_plan(part, path, why);
    if (err)
        return err;
    err = start_lab(execution, lab, ram, folder, &pid, &output);
    if (err)
        return why_set(why, -err, "cannot start " LAB_SCRIPT ": %s",
                       strerror(-err));
    stream = fdopen(output, "r");
    if (stream)
        follow(stream, progress, last, sizeof last);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        if (*execution->stop)
            kill(pid, SIGTERM);
    if (stream)
        fclose(stream);
    if (*execution->stop)
        return -EINTR;
    snprintf(path, sizeof path, "%s/run", folder);
    err = results_merge(execution->results, path, why);
    if (err || !WIFEXITED(status) || WEXITSTATUS(status) > 1)
        return why_set(why, EIO, "the %s lab failed: %s", machine, last);
    return 0;
}

static int run_lab(struct execution *execution, struct progress *progress,
                   enum platform lab, struct why *why)
{
    char folder[] = "/tmp/memvirt-lab-XXXXXX";
    uint64_t ram;
    struct plan part = lab_part(execution->plan, lab, &ram);
    int err = 0;

    if (!part.specs || !part.count)
        err = part.specs ? 0 : why_set(why, ENOMEM, "out of memory");
    else if (!mkdtemp(folder))
        err = why_set(why, errno, "cannot create %s: %s", folder,
                      strerror(errno));
    else {
        err = run_in_folder(execution, progress, lab, &part, ram, folder, why);
        nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
        execution->done += (unsigned)part.count;
    }
    plan_free(&part);
    return err;
}

int execute(struct execution *execution, struct why *why)
{
    struct progress progress;
    int err;

    progress_start(&progress, execution->plan->count);
    err = run_all_here(execution, &progress, why);
    for (enum platform lab = PLATFORM_LAB_SVM;
         !err && platform_here() == PLATFORM_HOST && lab < PLATFORMS; lab++)
        err = run_lab(execution, &progress, lab, why);
    progress_end(&progress);
    return err;
}
