/* memvirt audit: the sensitive instructions, in a process and in the guest's
 * kernel under every technique. */
#include "ept/kvm_switch.h"
#include "harness/audit.h"
#include "harness/commands.h"
#include "harness/run_set.h"
#include "harness/technique.h"
#include "workloads/catalog.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "Usage: memvirt audit [OPTION...]\n"
    "\n"
    "Popek and Goldberg's test on this CPU: executes each of the 17 "
    "instructions\n"
    "of IA-32 that are sensitive and not privileged, and those of 64-bit "
    "mode,\n"
    "in a process at CPL 3 and in the guest's kernel under every technique.\n"
    "  right           as on a machine of the kernel's own\n"
    "  trapped         an exception, which a VMM can use\n"
    "  silently wrong  another value, or no effect, and nobody is told\n"
    "\n"
    "  -t, --technique LIST   techniques (default all that run here), or none\n"
    "      --switch-kvm       turn the host's ept/npt switch for them (root)\n"
    "  -o, --output DIR       result folder for audit.csv (default\n"
    "                         results/TIME-audit)\n"
    "\n"
    "Examples:\n"
    "  memvirt audit\n"
    "  memvirt audit -t none            # the CPU alone\n"
    "  memvirt audit -t shadow,trap,pv -o results/audit\n";

enum { OPT_SWITCH_KVM = 256 };

struct arguments {
    bool wanted[TECHNIQUES];
    bool asked, switch_kvm;
    const char *output;
};

/* The process, and each technique. */
#define COLUMNS_MAX (TECHNIQUES + 1)

static int take_techniques(const char *list, struct arguments *arguments,
                           struct why *why)
{
    char *copy = strdup(list), *save = NULL;
    int err = copy ? 0 : why_set(why, ENOMEM, "out of memory");

    arguments->asked = true;
    for (char *name = copy ? strtok_r(copy, ",", &save) : NULL; name && !err;
         name = strtok_r(NULL, ",", &save)) {
        enum technique technique;

        if (!strcmp(name, "none"))
            continue;
        err = technique_parse(name, &technique, why);
        if (!err && !technique_ops(technique))
            err = technique_only_modelled(technique, why);
        else if (!err && technique == TECH_NATIVE)
            err = why_set(why, EINVAL,
                          "the process at CPL 3 is always there; the guest's "
                          "kernel on a bare machine is 'emulation'");
        else if (!err)
            arguments->wanted[technique] = true;
    }
    free(copy);
    return err;
}

/* 0 to go on, otherwise an exit status + 1. */
static int parse(int argc, char **argv, struct arguments *arguments)
{
    static const struct option options[] = {
        {"technique", required_argument, NULL, 't'},
        {"switch-kvm", no_argument, NULL, OPT_SWITCH_KVM},
        {"output", required_argument, NULL, 'o'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    struct why why;
    int option, err = 0;

    optind = 0;
    while (!err &&
           (option = getopt_long(argc, argv, "t:o:h", options, NULL)) != -1) {
        if (option == 'h') {
            fputs(help, stdout);
            return 1;
        }
        if (option == '?')
            return 3;
        if (option == 't')
            err = take_techniques(optarg, arguments, &why);
        else if (option == 'o')
            arguments->output = optarg;
        else
            arguments->switch_kvm = true;
    }
    if (!err && optind < argc)
        err =
            why_set(&why, EINVAL, "unexpected '%s'; see 'memvirt audit --help'",
                    argv[optind]);
    if (err)
        fprintf(stderr, "memvirt audit: %s\n", why.text);
    return err ? 3 : 0;
}

static void turn_switch(struct kvm_switch *kvm, enum technique technique)
{
    struct why why;

    if (kvm)
        kvm_switch_set(kvm,
                       technique == TECH_SHADOW ? KVM_PAGING_SHADOW
                                                : KVM_PAGING_NESTED,
                       &why);
}

/* Every technique that is asked for, or all; what can't run here is told on
 * standard error. */
static int run_techniques(const struct arguments *arguments,
                          struct kvm_switch *kvm, struct audit_column *columns,
                          unsigned *count)
{
    const struct workload *workload = workload_find("audit");
    int err = 0;

    for (unsigned t = TECH_NATIVE + 1; t < TECHNIQUES && err != -EINTR; t++) {
        enum technique technique = (enum technique)t;
        const struct technique_ops *ops = technique_ops(technique);
        struct why why = {""};

        if (!ops || (arguments->asked && !arguments->wanted[t]))
            continue;
        turn_switch(kvm, technique);
        err = ops->here(workload, &why);
        if (!err)
            err = audit_technique(technique, run_set_stop(), &columns[*count],
                                  &why);
        if (!err)
            ++*count;
        else if (err != -EINTR)
            fprintf(stderr, "memvirt audit: %s: %s\n",
                    technique_name(technique), why.text);
    }
    return err == -EINTR ? err : 0;
}

static int write_csv(const struct audit_column *columns, unsigned count,
                     const char *folder)
{
    char *path;
    FILE *file;
    int err;

    if (asprintf(&path, "%s/audit.csv", folder) < 0)
        return 1;
    file = fopen(path, "we");
    err = file ? audit_write_csv(columns, count, file) : -errno;
    if (file && fclose(file) && !err)
        err = -errno;
    if (err)
        fprintf(stderr, "memvirt audit: cannot write %s: %s\n", path,
                strerror(-err));
    free(path);
    return err ? 1 : 0;
}

static int run_all(const struct arguments *arguments, const char *folder)
{
    static struct audit_column columns[COLUMNS_MAX];
    struct kvm_switch *kvm = NULL;
    unsigned count = 1;
    struct why why;
    int err = 0, status;

    audit_process(&columns[0]);
    if (arguments->switch_kvm && kvm_switch_open(&kvm_host_linux, &kvm, &why)) {
        fprintf(stderr, "memvirt audit: %s\n", why.text);
        return 1;
    }
    err = run_techniques(arguments, kvm, columns, &count);
    if (kvm && kvm_switch_close(kvm, &why))
        fprintf(stderr, "memvirt audit: %s\n", why.text);
    if (err)
        return 128 + *run_set_stop();
    audit_print(columns, count, stdout);
    status = write_csv(columns, count, folder);
    printf("\nResults: %s\n", folder);
    return status;
}

int cmd_audit(int argc, char **argv)
{
    struct arguments arguments = {.output = NULL};
    int status = parse(argc, argv, &arguments);
    struct results *results;
    char folder[4200];
    const char *where;
    struct why why;

    if (status)
        return status - 1;
    where = run_set_folder(arguments.output, "-audit", folder, sizeof folder);
    if (run_set_open(&results, where, &why)) {
        fprintf(stderr, "memvirt audit: %s\n", why.text);
        return 1;
    }
    status = run_all(&arguments, where);
    results_close(results, &why);
    return status;
}
