#include "harness/model_plan.h"

#include "base/parse.h"
#include "harness/costs.h"
#include "harness/profile.h"
#include "mmu/entry.h"
#include "workloads/catalog.h"
#include "workloads/model/source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIST_MAX   64
#define LEVELS_MAX 8

static const struct {
    const char *name;
    enum model_technique technique;
} techniques[] = {
    {"native", MODEL_NATIVE}, {"shadow", MODEL_SHADOW},
    {"nested", MODEL_NESTED}, {"agile", MODEL_AGILE},
    {"flat", MODEL_FLAT},
};

struct levels {
    unsigned guest, host;
};

/* The axes of the product, parsed. */
struct axes {
    struct model_plan *plan;
    enum model_technique techniques[MODEL_TECHNIQUES];
    enum shadow_policy policies[SHADOW_POLICIES];
    char *workloads[LIST_MAX];
    uint64_t sizes[LIST_MAX], guest_pages[3], host_pages[3];
    struct levels levels[LEVELS_MAX];
    unsigned technique_count, policy_count, workload_count, size_count,
        guest_page_count, host_page_count, levels_count;
};

/* ---- Lists --------------------------------------------------------------- */

static int twice(const char *what, const char *text, struct why *why)
{
    return why_set(why, EINVAL, "%s: '%s' is there twice", what, text);
}

static int too_many(const char *what, struct why *why)
{
    return why_set(why, E2BIG, "%s: the list is too long", what);
}

static int add_technique(const char *text, void *arg, struct why *why)
{
    struct axes *axes = arg;
    unsigned i = 0;

    while (i < MODEL_TECHNIQUES && strcmp(techniques[i].name, text))
        i++;
    if (i == MODEL_TECHNIQUES)
        return why_set(why, EINVAL,
                       "the model has no technique '%s'; it has: native, "
                       "shadow, nested, agile, flat",
                       text);
    for (unsigned n = 0; n < axes->technique_count; n++)
        if (axes->techniques[n] == techniques[i].technique)
            return twice("-t", text, why);
    axes->techniques[axes->technique_count++] = techniques[i].technique;
    return 0;
}

static int add_policy(const char *text, void *arg, struct why *why)
{
    struct axes *axes = arg;
    enum shadow_policy policy;
    int err = shadow_policy_parse(text, &policy, why);

    for (unsigned n = 0; !err && n < axes->policy_count; n++)
        if (axes->policies[n] == policy)
            return twice("--shadow-policy", text, why);
    if (!err)
        axes->policies[axes->policy_count++] = policy;
    return err;
}

static int push_workload(struct axes *axes, const char *text, struct why *why)
{
    if (axes->workload_count == LIST_MAX)
        return too_many("-w", why);
    axes->workloads[axes->workload_count] = strdup(text);
    if (!axes->workloads[axes->workload_count])
        return why_set(why, ENOMEM, "out of memory");
    axes->workload_count++;
    return 0;
}

static int add_class(struct axes *axes, int class, struct why *why)
{
    const struct workload *const *w = workload_catalog();
    int err = 0;

    for (; !err && *w; w++) {
        if (!(*w)->run || (class >= 0 && (int)(*w)->class != class))
            continue;
        err = push_workload(axes, (*w)->name, why);
    }
    return err;
}

static int add_workload(const char *text, void *arg, struct why *why)
{
    struct axes *axes = arg;

    if (!strcmp(text, "all"))
        return add_class(axes, -1, why);
    if (!strcmp(text, "memory"))
        return add_class(axes, WL_MEMORY, why);
    if (!strcmp(text, "mmu"))
        return add_class(axes, WL_MMU, why);
    return push_workload(axes, text, why);
}

static int add_page(const char *text, const char *what, uint64_t *pages,
                    unsigned *count, struct why *why)
{
    uint64_t bytes;
    int err = parse_size(text, &bytes, why);

    if (err)
        return err;
    if (!pt_leaf_level(bytes))
        return why_set(why, EINVAL, "%s: '%s' is no page size: 4K, 2M or 1G",
                       what, text);
    for (unsigned i = 0; i < *count; i++)
        if (pages[i] == bytes)
            return twice(what, text, why);
    pages[(*count)++] = bytes;
    return 0;
}

static int add_guest_page(const char *text, void *arg, struct why *why)
{
    struct axes *axes = arg;

    return add_page(text, "--guest-page", axes->guest_pages,
                    &axes->guest_page_count, why);
}

static int add_host_page(const char *text, void *arg, struct why *why)
{
    struct axes *axes = arg;

    return add_page(text, "--host-page", axes->host_pages,
                    &axes->host_page_count, why);
}

static int add_size(const char *text, void *arg, struct why *why)
{
    struct axes *axes = arg;

    if (axes->size_count == LIST_MAX)
        return too_many("--size", why);
    return parse_size(text, &axes->sizes[axes->size_count++], why);
}

/* "4" is "4+4". */
static int add_levels(const char *text, void *arg, struct why *why)
{
    static const struct {
        const char *text;
        struct levels levels;
    } known[] = {{"4", {4, 4}},   {"5", {5, 5}},   {"4+4", {4, 4}},
                 {"4+5", {4, 5}}, {"5+4", {5, 4}}, {"5+5", {5, 5}}};
    struct axes *axes = arg;

    for (unsigned i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(known[i].text, text))
            continue;
        if (axes->levels_count == LEVELS_MAX)
            return too_many("--levels", why);
        axes->levels[axes->levels_count++] = known[i].levels;
        return 0;
    }
    return why_set(why, EINVAL,
                   "--levels: '%s' is none of 4+4, 4+5, 5+4, 5+5 (guest + "
                   "host)",
                   text);
}

static int add_profile(const char *text, void *arg, struct why *why)
{
    struct model_plan *plan = ((struct axes *)arg)->plan;
    struct mmu_profile *grown =
        reallocarray(plan->profiles, plan->profile_count + 1, sizeof *grown);

    if (!grown)
        return why_set(why, ENOMEM, "out of memory");
    plan->profiles = grown;
    return profile_load(text, &grown[plan->profile_count++], why);
}

static int parse_axes(struct axes *axes, const struct model_request *ask,
                      struct why *why)
{
    const struct {
        const char *text, *what;
        int (*item)(const char *text, void *arg, struct why *why);
    } lists[] = {
        {ask->techniques ? ask->techniques : "native,shadow,nested", "-t",
         add_technique},
        {ask->policies ? ask->policies : "unsync", "--shadow-policy",
         add_policy},
        {ask->workloads ? ask->workloads : "gups", "-w", add_workload},
        {ask->cpus ? ask->cpus : "skylake-sp", "--cpu", add_profile},
        {ask->sizes ? ask->sizes : "0", "--size", add_size},
        {ask->guest_pages ? ask->guest_pages : "4K", "--guest-page",
         add_guest_page},
        {ask->host_pages ? ask->host_pages : "4K", "--host-page",
         add_host_page},
        {ask->levels ? ask->levels : "4+4", "--levels", add_levels},
    };
    int err = 0;

    for (unsigned i = 0; !err && i < sizeof lists / sizeof lists[0]; i++)
        err =
            parse_list(lists[i].text, lists[i].what, lists[i].item, axes, why);
    return err;
}

/* ---- Machines ------------------------------------------------------------ */

static bool two_dimensional(enum model_technique technique)
{
    return technique != MODEL_NATIVE && technique != MODEL_SHADOW;
}

static bool npt(const struct mmu_profile *profile)
{
    return !strncmp(profile->cpu, "AMD", 3);
}

/* What is the same machine whatever the axis says is there once. */
static bool same_machine(const struct machine_config *a,
                         const struct machine_config *b)
{
    return a->technique == b->technique && a->profile == b->profile &&
           a->shadow_policy == b->shadow_policy &&
           a->nested_levels == b->nested_levels &&
           a->host_page_bytes == b->host_page_bytes;
}

static int push_machine(struct model_pass *pass,
                        const struct machine_config *machine, struct why *why)
{
    struct machine_config *grown;

    for (size_t i = 0; i < pass->machine_count; i++)
        if (same_machine(&pass->machines[i], machine))
            return 0;
    grown =
        reallocarray(pass->machines, pass->machine_count + 1, sizeof *grown);
    if (!grown)
        return why_set(why, ENOMEM, "out of memory");
    pass->machines = grown;
    grown[pass->machine_count++] = *machine;
    return 0;
}

/* One technique on one CPU, on every kind of host. */
static int add_hosts(const struct axes *axes, struct model_pass *pass,
                     struct machine_config machine, struct why *why)
{
    int err = 0;

    for (unsigned h = 0; !err && h < axes->host_page_count; h++)
        for (unsigned l = 0; !err && l < axes->levels_count; l++) {
            if (pass->levels && axes->levels[l].guest != pass->levels)
                continue;
            machine.nested_levels =
                two_dimensional(machine.technique) ? axes->levels[l].host : 0;
            machine.host_page_bytes = machine.technique == MODEL_NATIVE
                                          ? pass->params.page_bytes
                                          : axes->host_pages[h];
            err = push_machine(pass, &machine, why);
        }
    return err;
}

static int add_machines(const struct axes *axes,
                        const struct model_request *ask,
                        struct model_pass *pass, struct why *why)
{
    int err = 0;

    for (size_t c = 0; c < axes->plan->profile_count; c++)
        for (unsigned t = 0; t < axes->technique_count; t++)
            for (unsigned p = 0; !err && p < axes->policy_count; p++) {
                bool shadow = axes->techniques[t] == MODEL_SHADOW;
                const struct machine_config machine = {
                    .technique = axes->techniques[t],
                    .profile = &axes->plan->profiles[c],
                    .costs = &axes->plan->costs,
                    .nested_format = npt(&axes->plan->profiles[c])
                                         ? EPT_FORMAT_NPT
                                         : EPT_FORMAT_EPT,
                    .shadow_policy = shadow ? axes->policies[p] : SHADOW_TRACED,
                    .host_large_ppm = ask->large_percent * 10000,
                    .data_in_caches = ask->data_in_caches,
                    .agile_interval = ask->agile_interval,
                    .seed = pass->params.seed,
                };

                err = add_hosts(axes, pass, machine, why);
            }
    return err;
}

/* ---- Passes -------------------------------------------------------------- */

static bool has_prefix(const char *text, const char *prefix, const char **rest)
{
    size_t length = strlen(prefix);

    *rest = text + length;
    return !strncmp(text, prefix, length);
}

/* A trace is called by the last part of its path. */
static int name_trace(struct model_pass *pass, const char *path,
                      struct why *why)
{
    const char *slash = strrchr(path, '/');

    if (!*path)
        return why_set(why, EINVAL,
                       "-w: a trace needs a file, for example trace:gups.mvt, "
                       "or '-' for standard input");
    snprintf(pass->label, sizeof pass->label, "%.*s",
             (int)sizeof pass->label - 1,
             !strcmp(path, "-") ? "standard-input"
             : slash            ? slash + 1
                                : path);
    pass->path = strdup(path);
    return pass->path ? 0 : why_set(why, ENOMEM, "out of memory");
}

static int find_workload(struct model_pass *pass, const char *name,
                         struct why *why)
{
    const struct workload *workload = model_find(name);

    if (!workload && workload_find(name))
        return why_set(why, EINVAL,
                       "%s is an operation of the guest kernel and no stream "
                       "of accesses: 'memvirt run -w %s' runs it",
                       name, name);
    if (!workload)
        return why_set(why, EINVAL,
                       "there is no workload '%s': 'memvirt list workloads' "
                       "has them; patterns are pattern:NAME, traces "
                       "trace:FILE, lackey:FILE, champsim:FILE, "
                       "memtrace:FILE",
                       name);
    snprintf(pass->label, sizeof pass->label, "%s", name);
    return workload_check(workload, &pass->params, why);
}

static int identify(struct model_pass *pass, const char *text, struct why *why)
{
    static const char *const formats[] = {"lackey", "champsim", "memtrace"};
    const char *rest;

    if (has_prefix(text, "trace:", &rest)) {
        pass->kind = STREAM_TRACE;
        return name_trace(pass, rest, why);
    }
    for (unsigned i = 0; i < sizeof formats / sizeof formats[0]; i++)
        if (has_prefix(text, formats[i], &rest) && *rest == ':') {
            pass->kind = STREAM_IMPORT;
            snprintf(pass->format, sizeof pass->format, "%s", formats[i]);
            return name_trace(pass, rest + 1, why);
        }
    return find_workload(pass, text, why);
}

/* Makes room before it fills, so that the plan frees what is begun. */
static int add_pass(const struct axes *axes, const struct model_request *ask,
                    const char *workload, const struct model_pass *pass,
                    struct why *why)
{
    struct model_plan *plan = axes->plan;
    struct model_pass *grown =
        reallocarray(plan->passes, plan->pass_count + 1, sizeof *grown);
    int err;

    if (!grown)
        return why_set(why, ENOMEM, "out of memory");
    plan->passes = grown;
    grown += plan->pass_count++;
    *grown = *pass;
    err = identify(grown, workload, why);
    if (!err)
        err = add_machines(axes, ask, grown, why);
    plan->machine_count += grown->machine_count;
    return err;
}

/* Levels of the guest, each once. */
static unsigned guest_levels(const struct axes *axes, unsigned levels[2])
{
    unsigned count = 0;

    for (unsigned i = 0; i < axes->levels_count; i++)
        if (!count || (levels[0] != axes->levels[i].guest && count < 2))
            levels[count++] = axes->levels[i].guest;
    return count;
}

static int add_passes(const struct axes *axes, const struct model_request *ask,
                      const char *workload, struct why *why)
{
    /* Another tool's trace has a size of its own; ours its pages and levels
     * too. */
    bool recorded = !strncmp(workload, "trace:", 6);
    bool sized = model_find(workload);
    unsigned levels[2] = {0, 0};
    unsigned level_count = recorded ? 1 : guest_levels(axes, levels);
    unsigned sizes = sized ? axes->size_count : 1;
    unsigned pages = recorded ? 1 : axes->guest_page_count;
    int err = 0;

    for (unsigned s = 0; s < sizes; s++)
        for (unsigned g = 0; g < pages; g++)
            for (unsigned l = 0; !err && l < level_count; l++) {
                const struct model_pass pass = {
                    .params = {.working_set_bytes = sized ? axes->sizes[s] : 0,
                               .page_bytes = axes->guest_pages[g],
                               .operations = ask->operations,
                               .seed = ask->seed ? ask->seed : 1,
                               .vcpus = 1},
                    .levels = levels[l],
                    .pcid = ask->pcid,
                    .fetches = ask->fetches,
                    .ram_bytes = ask->ram_bytes,
                };

                err = add_pass(axes, ask, workload, &pass, why);
            }
    return err;
}

int model_plan_make(struct model_plan *plan, const struct model_request *ask,
                    struct why *why)
{
    struct axes axes = {.plan = plan};
    int err;

    *plan = (struct model_plan){.passes = NULL};
    err = costs_load(ask->costs ? ask->costs : "default", &plan->costs, why);
    if (!err)
        err = parse_axes(&axes, ask, why);
    for (unsigned i = 0; !err && i < axes.workload_count; i++)
        err = add_passes(&axes, ask, axes.workloads[i], why);
    for (unsigned i = 0; i < axes.workload_count; i++)
        free(axes.workloads[i]);
    return err;
}

void model_plan_free(struct model_plan *plan)
{
    for (size_t i = 0; i < plan->pass_count; i++) {
        free(plan->passes[i].machines);
        free(plan->passes[i].path);
    }
    free(plan->passes);
    free(plan->profiles);
    *plan = (struct model_plan){.passes = NULL};
}
