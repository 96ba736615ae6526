#include "harness/execute.h"

#include "base/parse.h"
#include "ept/kvm_switch.h"
#include "harness/child.h"
#include "harness/lab.h"
#include "harness/progress.h"
#include "harness/technique.h"
#include "mmu/entry.h"
#include "workloads/catalog.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <unistd.h>

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
    else if (kvm && (spec->technique == TECH_NESTED ||
                     technique_is_software(spec->technique)))
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

/* rename(2) across file systems. */
static int copy_file(const char *from, const char *to)
{
    int in = open(from, O_RDONLY | O_CLOEXEC), out;
    ssize_t copied = -1;

    if (in < 0)
        return -1;
    out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (out >= 0)
        do
            copied = sendfile(out, in, NULL, 1 << 20);
        while (copied > 0);
    close(in);
    return out < 0 || close(out) || copied < 0 ? -1 : 0;
}

static int remove_entry(const char *path, const struct stat *st, int type,
                        struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static struct plan lab_part(const struct plan *plan, enum platform lab)
{
    struct plan part = {calloc(plan->count, sizeof *plan->specs), 0, 0};

    for (size_t i = 0; part.specs && i < plan->count; i++)
        if (plan->specs[i].platform == lab && !runs_here(&plan->specs[i]))
            part.specs[part.count++] = plan->specs[i];
    return part;
}

/* The lab's own environment stands beside ours. */
static int take_environment(const struct execution *execution,
                            enum platform lab, const char *folder,
                            struct why *why)
{
    char *from = NULL, *to = NULL;
    int err = 0;

    if (asprintf(&from, "%s/run/environment.json", folder) < 0 ||
        asprintf(&to, "%s/environment-%s.json", execution->folder,
                 platform_name(lab)) < 0)
        err = why_set(why, ENOMEM, "out of memory");
    else if (rename(from, to) && (errno != EXDEV || copy_file(from, to)))
        err = why_set(why, errno, "cannot write %s: %s", to, strerror(errno));
    free(from);
    free(to);
    return err;
}

static int take_results(const struct execution *execution, enum platform lab,
                        const char *folder, struct why *why)
{
    char *run;
    int err;

    if (asprintf(&run, "%s/run", folder) < 0)
        return why_set(why, ENOMEM, "out of memory");
    err = results_merge(execution->results, run, why);
    if (!err)
        err = take_environment(execution, lab, folder, why);
    free(run);
    return err;
}

/* A lab that failed leaves a failed row for each of its runs. */
static int add_failures(struct execution *execution, struct progress *progress,
                        const struct plan *part, const struct why *reason,
                        struct why *why)
{
    struct run_record record = {.status = RUN_FAILED};
    int err = 0;

    snprintf(record.message, sizeof record.message, "%s", reason->text);
    for (size_t i = 0; !err && i < part->count; i++) {
        count(execution, &record);
        err = results_add(execution->results, &part->specs[i], &record, why);
    }
    progress_note(progress, reason->text);
    return err;
}

static int run_part(struct execution *execution, struct progress *progress,
                    enum platform lab, const struct plan *part, struct why *why)
{
    struct lab_job job = {
        .lab = lab,
        .plan = part,
        .first_id = results_next_id(execution->results, lab),
        .stop = execution->stop,
    };
    char folder[] = "/tmp/memvirt-lab-XXXXXX";
    struct why reason = {""};
    int err;

    if (!mkdtemp(folder))
        return why_set(why, errno, "cannot create %s: %s", folder,
                       strerror(errno));
    err = lab_run(&job, folder, progress, &reason);
    if (!err) {
        err = take_results(execution, lab, folder, why);
        execution->done += (unsigned)part->count;
        execution->failed += job.failed;
    } else if (err != -EINTR) {
        err = add_failures(execution, progress, part, &reason, why);
    }
    nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    return err;
}

static int run_lab(struct execution *execution, struct progress *progress,
                   enum platform lab, struct why *why)
{
    struct plan part = lab_part(execution->plan, lab);
    int err = 0;

    if (!part.specs && execution->plan->count)
        err = why_set(why, ENOMEM, "out of memory");
    else if (part.count)
        err = run_part(execution, progress, lab, &part, why);
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
         !err && platform_here() == PLATFORM_HOST && lab <= PLATFORM_LAB_VMX;
         lab++)
        err = run_lab(execution, &progress, lab, why);
    progress_end(&progress);
    return err;
}
