#include "harness/plan.h"

#include "base/parse.h"
#include "ept/kvm_switch.h"
#include "harness/technique.h"
#include "mmu/entry.h"
#include "workloads/catalog.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LIST_MAX  64
#define SPECS_MAX 100000

/* The axes of the product, parsed. */
struct axes {
    enum technique techniques[TECHNIQUES];
    const struct workload *workloads[LIST_MAX];
    uint64_t sizes[LIST_MAX];
    uint64_t guest_pages[LIST_MAX];
    enum host_page host_pages[HOST_PAGES];
    enum platform labs[2];
    enum shadow_policy policies[SHADOW_POLICIES];
    bool no_assists[2], no_adaptives[2];
    bool kvm_turns; /* the host's switch may be turned for a run */
    unsigned technique_count, workload_count, size_count, guest_page_count,
        host_page_count, lab_count, policy_count, assist_count, adaptive_count;
};

/* ---- Parsing the lists ------------------------------------------------- */

static int too_many(const char *what, struct why *why)
{
    return why_set(why, E2BIG, "%s: the list is too long", what);
}

static int add_technique(const char *text, void *arg, struct why *why)
{
    struct axes *axes = arg;
    enum technique technique;
    int err = technique_parse(text, &technique, why);

    if (!err && !technique_ops(technique))
        err = technique_only_modelled(technique, why);
    for (unsigned i = 0; !err && i < axes->technique_count; i++)
        if (axes->techniques[i] == technique)
            return why_set(why, EINVAL, "-t: '%s' is there twice", text);
    if (!err)
        axes->techniques[axes->technique_count++] = technique;
    return err;
}

static int add_class(struct axes *axes, int class, struct why *why)
{
    for (const struct workload *const *w = workload_catalog(); *w; w++) {
        if (class >= 0 ? (int)(*w)->class != class : (*w)->class == WL_TEST)
            continue;
        if (axes->workload_count == LIST_MAX)
            return too_many("-w", why);
        axes->workloads[axes->workload_count++] = *w;
    }
    return 0;
}

static int add_workload(const char *text, void *arg, struct why *why)
{
    static const char *const classes[] = {"nano", "compute", "mmu", "memory",
                                          "test"};
    const struct workload *workload = workload_find(text);
    struct axes *axes = arg;

    for (int class = 0; class < 5; class ++)
        if (!strcmp(text, classes[class]))
            return add_class(axes, class, why);
    if (!strcmp(text, "all"))
        return add_class(axes, -1, why);
    if (!workload)
        return why_set(why, EINVAL,
                       "there is no workload '%s': 'memvirt list' names them",
                       text);
    if (axes->workload_count == LIST_MAX)
        return too_many("-w", why);
    axes->workloads[axes->workload_count++] = workload;
    return 0;
}

static int add_size(const char *text, void *arg, struct why *why)
{
    struct axes *axes = arg;

    if (axes->size_count == LIST_MAX)
        return too_many("--size", why);
    return parse_size(text, &axes->sizes[axes->size_count++], why);
}

static int add_guest_page(const char *text, void *arg, struct why *why)
{
    struct axes *axes = arg;
    uint64_t bytes;
    int err = parse_size(text, &bytes, why);

    if (!err && !pt_leaf_level(bytes))
        err = why_set(why, EINVAL, "--guest-page: '%s' is not 4K, 2M or 1G",
                      text);
    if (!err && axes->guest_page_count == LIST_MAX)
        err = too_many("--guest-page", why);
    if (!err)
        axes->guest_pages[axes->guest_page_count++] = bytes;
    return err;
}

static int add_host_page(const char *text, void *arg, struct why *why)
{
    struct axes *axes = arg;

    if (axes->host_page_count == HOST_PAGES)
        return too_many("--host-page", why);
    return host_page_parse(text, &axes->host_pages[axes->host_page_count++],
                           why);
}

static int add_lab(const char *text, void *arg, struct why *why)
{
    struct axes *axes = arg;
    enum platform lab = PLATFORM_LAB_SVM;

    if (!strcmp(text, "vmx"))
        lab = PLATFORM_LAB_VMX;
    else if (strcmp(text, "svm"))
        return why_set(why, EINVAL, "--machine: '%s' is not svm or vmx", text);
    if (axes->lab_count == 2)
        return too_many("--machine", why);
    axes->labs[axes->lab_count++] = lab;
    return 0;
}

static int add_policy(const char *text, void *arg, struct why *why)
{
    struct axes *axes = arg;

    if (axes->policy_count == SHADOW_POLICIES)
        return too_many("--shadow-policy", why);
    return shadow_policy_parse(text, &axes->policies[axes->policy_count++],
                               why);
}

static int add_switch(const char *text, const char *what, bool offs[2],
                      unsigned *count, struct why *why)
{
    bool off = !strcmp(text, "off");

    if (!off && strcmp(text, "on"))
        return why_set(why, EINVAL, "%s: '%s' is not on or off", what, text);
    if (*count == 2)
        return too_many(what, why);
    offs[(*count)++] = off;
    return 0;
}

static int add_assist(const char *text, void *arg, struct why *why)
{
    struct axes *axes = arg;

    return add_switch(text, "--assist", axes->no_assists, &axes->assist_count,
                      why);
}

static int add_adaptive(const char *text, void *arg, struct why *why)
{
    struct axes *axes = arg;

    return add_switch(text, "--bt-adaptive", axes->no_adaptives,
                      &axes->adaptive_count, why);
}

static int parse_axes(const struct plan_request *request, struct axes *axes,
                      struct why *why)
{
    const struct {
        const char *what, *text;
        int (*item)(const char *text, void *arg, struct why *why);
    } lists[] = {
        {"-t",
         request->techniques ? request->techniques
                             : "native,emulation,shadow,nested",
         add_technique},
        {"-w", request->workloads ? request->workloads : "gups", add_workload},
        {"--size", request->sizes ? request->sizes : "0", add_size},
        {"--guest-page", request->guest_pages ? request->guest_pages : "4K",
         add_guest_page},
        {"--host-page", request->host_pages ? request->host_pages : "4K",
         add_host_page},
        {"--shadow-policy", request->policies ? request->policies : "unsync",
         add_policy},
        {"--assist", request->assists ? request->assists : "on", add_assist},
        {"--bt-adaptive", request->adaptives ? request->adaptives : "on",
         add_adaptive},
        {"--machine", request->machines ? request->machines : "svm", add_lab},
    };
    int err = 0;

    *axes = (struct axes){.technique_count = 0};
    for (unsigned i = 0; !err && i < sizeof lists / sizeof lists[0]; i++)
        if (*lists[i].text)
            err = parse_list(lists[i].text, lists[i].what, lists[i].item, axes,
                             why);
    return err;
}

/* ---- Where a run goes -------------------------------------------------- */

static bool is_kvms(enum technique technique)
{
    return technique == TECH_SHADOW || technique == TECH_NESTED;
}

static bool kvm_turns(const struct plan_request *request)
{
    struct kvm_state state;

    if (!request->switch_kvm)
        return false;
    kvm_state_read(&kvm_host_linux, &state);
    return state.switchable;
}

/* Whether `platform` is a place for this run at all. Reasons that the run
 * itself finds out are its row's message. */
static bool suits(const struct axes *axes, enum platform platform,
                  enum technique technique, const struct workload *workload)
{
    struct why why;

    if (platform == PLATFORM_HOST && platform_here() == PLATFORM_HOST)
        return !technique_ops(technique)->here(workload, &why) ||
               (axes->kvm_turns && is_kvms(technique));
    if (platform == platform_here())
        return true;
    if (technique == TECH_EMULATION)
        return false;
    /* Bochs cannot boot the image itself. */
    return !(platform == PLATFORM_LAB_VMX && technique == TECH_NATIVE &&
             !workload->run);
}

static unsigned choose_platforms(const struct axes *axes,
                                 const struct plan_request *request,
                                 const struct workload *workload,
                                 enum platform *platforms)
{
    enum platform here = platform_here();
    unsigned count = 0;
    bool lab = request->lab_only;

    for (unsigned i = 0; i < axes->technique_count; i++)
        lab |= here == PLATFORM_HOST &&
               !suits(axes, here, axes->techniques[i], workload);
    if (!request->lab_only)
        platforms[count++] = here;
    for (unsigned i = 0; lab && i < axes->lab_count; i++)
        platforms[count++] = axes->labs[i];
    return count;
}

/* ---- The product ------------------------------------------------------- */

static int push(struct plan *plan, const struct run_spec *spec, struct why *why)
{
    if (plan->count == SPECS_MAX)
        return why_set(why, E2BIG, "more than %d runs: shorten a list",
                       SPECS_MAX);
    if (plan->count == plan->room) {
        size_t room = plan->room ? 2 * plan->room : 64;
        void *grown = realloc(plan->specs, room * sizeof *plan->specs);

        if (!grown)
            return why_set(why, ENOMEM, "out of memory");
        plan->specs = grown;
        plan->room = room;
    }
    plan->specs[plan->count++] = *spec;
    return 0;
}

static int copy_text(char *to, size_t room, const char *from, const char *what,
                     struct why *why)
{
    if (!from)
        from = "";
    if (strlen(from) >= room)
        return why_set(why, E2BIG, "%s: '%.40s...' is too long", what, from);
    strcpy(to, from);
    return 0;
}

static int make_spec(const struct plan_request *request,
                     const struct workload *workload, uint64_t size,
                     uint64_t guest_page, enum host_page host_page,
                     unsigned rep, struct run_spec *spec, struct why *why)
{
    struct wl_params params = {
        .working_set_bytes = size,
        .page_bytes = guest_page,
        .operations = request->operations,
        .seed = request->seed ? request->seed : 1,
        .vcpus = request->vcpus ? request->vcpus : 1,
    };
    int err = workload_check(workload, &params, why);

    *spec = (struct run_spec){
        .working_set_bytes = params.working_set_bytes,
        .guest_page_bytes = params.page_bytes,
        .host_page = host_page,
        .operations = params.operations,
        .seed = params.seed,
        .ram_bytes = request->ram_bytes,
        .vcpus = params.vcpus,
        .rep = rep,
        .time_limit_s = request->time_limit_s,
        .pcid = request->pcid,
        .uncounted = request->uncounted,
        .shadow_roots = request->shadow_roots,
        .tlb_poison = request->tlb_poison,
        .bt_cache_bytes = request->bt_cache_bytes,
    };
    if (!err)
        err = copy_text(spec->workload, sizeof spec->workload, workload->name,
                        "-w", why);
    if (!err)
        err =
            copy_text(spec->cpu, sizeof spec->cpu, request->cpu, "--cpu", why);
    if (!err)
        err = copy_text(spec->numa, sizeof spec->numa, request->numa, "--numa",
                        why);
    if (!err)
        err = copy_text(spec->image, sizeof spec->image, request->image,
                        "--image", why);
    return err;
}

/* The monitor's choices: once where there is no monitor. */
static int push_choices(struct plan *plan, const struct axes *axes,
                        struct run_spec *spec, struct why *why)
{
    enum technique technique = spec->technique;
    unsigned policies =
        technique_is_shadowed(technique) ? axes->policy_count : 1;
    unsigned assists =
        technique_is_software(technique) ? axes->assist_count : 1;
    unsigned adaptives = technique == TECH_BT ? axes->adaptive_count : 1;
    int err = 0;

    for (unsigned i = 0; !err && i < policies * assists * adaptives; i++) {
        spec->shadow_policy = axes->policies[i / adaptives / assists];
        spec->no_assist = axes->no_assists[i / adaptives % assists];
        spec->no_adaptive = axes->no_adaptives[i % adaptives];
        err = push(plan, spec, why);
    }
    return err;
}

/* All techniques of one combination, on every platform it goes to. */
static int add_techniques(struct plan *plan, const struct axes *axes,
                          const struct plan_request *request,
                          const struct workload *workload,
                          struct run_spec *spec, struct why *why)
{
    enum platform platforms[PLATFORMS];
    unsigned count = choose_platforms(axes, request, workload, platforms);
    int err = 0;

    for (unsigned p = 0; p < count; p++)
        for (unsigned t = 0; !err && t < axes->technique_count; t++) {
            spec->platform = platforms[p];
            spec->technique = axes->techniques[t];
            /* Without a VM there is nothing between the guest's pages and the
             * host's: the list of host pages is taken once. */
            if (suits(axes, spec->platform, spec->technique, workload) &&
                (spec->host_page == axes->host_pages[0] ||
                 is_kvms(spec->technique) ||
                 technique_is_software(spec->technique)))
                err = push_choices(plan, axes, spec, why);
        }
    return err;
}

/* A workload without a working set takes the size and page lists once. */
static int add_workload_runs(struct plan *plan, const struct axes *axes,
                             const struct plan_request *request,
                             const struct workload *workload, unsigned rep,
                             struct why *why)
{
    bool sized = workload->default_working_set_bytes;
    unsigned sizes = sized ? axes->size_count : 1;
    unsigned pages = sized ? axes->guest_page_count : 1;
    struct run_spec spec;
    int err = 0;

    for (unsigned s = 0; s < sizes; s++)
        for (unsigned g = 0; g < pages; g++)
            for (unsigned h = 0; !err && h < axes->host_page_count; h++) {
                err = make_spec(request, workload, sized ? axes->sizes[s] : 0,
                                sized ? axes->guest_pages[g] : PAGE_4K,
                                axes->host_pages[h], rep, &spec, why);
                if (!err)
                    err = add_techniques(plan, axes, request, workload, &spec,
                                         why);
            }
    return err;
}

int plan_add(struct plan *plan, const struct plan_request *request,
             struct why *why)
{
    unsigned reps = request->reps ? request->reps : 1;
    size_t before = plan->count;
    struct axes axes;
    int err = parse_axes(request, &axes, why);

    axes.kvm_turns = kvm_turns(request);
    for (unsigned rep = 1; !err && rep <= reps; rep++)
        for (unsigned w = 0; !err && w < axes.workload_count; w++)
            err = add_workload_runs(plan, &axes, request, axes.workloads[w],
                                    rep, why);
    if (!err && plan->count == before)
        err = why_set(why, EINVAL,
                      "nothing to run: none of these techniques runs these "
                      "workloads here or in the lab; 'memvirt list' says why");
    return err;
}

/*
 * The default experiment. On the host: the costs that time shows, three times
 * each. In the lab, where counts repeat exactly: everything once.
 */
int plan_add_default(struct plan *plan, const struct plan_request *request,
                     struct why *why)
{
    static const struct {
        const char *techniques, *workloads, *sizes, *guest_pages;
        uint64_t operations;
        unsigned reps;
        bool lab, uncounted;
    } parts[] = {
        {"native,shadow,nested", "chase",
         "64K,128K,256K,512K,1M,2M,4M,8M,16M,32M,64M", "4K,2M", 1000000, 3,
         false, true},
        {"native,emulation,shadow,nested", "gups,btree,pi,seq", "8M", "4K", 0,
         3, false, false},
        {"native,emulation,shadow,nested", "segv,ctxsw,protect,firsttouch",
         "256K", "4K", 20, 3, false, false},
        {"native,emulation,bt", "compute", NULL, "4K", 0, 3, false, true},
        {"native,bt,shadow,nested", "nano", NULL, "4K", 1000, 1, true, false},
        {"native,bt,shadow,nested", "mmu", "256K", "4K", 50, 1, true, false},
        {"native,bt,shadow,nested", "gups,btree", "4M", "4K", 100000, 1, true,
         false},
    };
    int err = 0;

    for (unsigned i = 0; !err && i < sizeof parts / sizeof parts[0]; i++) {
        struct plan_request part = *request;

        if (part.lab_only && !parts[i].lab)
            continue;
        part.techniques = parts[i].techniques;
        part.workloads = parts[i].workloads;
        part.sizes = parts[i].sizes;
        part.guest_pages = parts[i].guest_pages;
        part.reps = request->reps ? request->reps : parts[i].reps;
        if (!part.operations)
            part.operations = parts[i].operations;
        part.uncounted = request->uncounted || parts[i].uncounted;
        part.lab_only = parts[i].lab;
        if (!parts[i].lab)
            part.machines = "";
        err = plan_add(plan, &part, why);
    }
    return err;
}

/* ---- Travelling -------------------------------------------------------- */

int plan_write(const struct plan *plan, FILE *file)
{
    for (size_t i = 0; i < plan->count; i++) {
        char *json = run_spec_to_json(&plan->specs[i]);

        if (!json)
            return -ENOMEM;
        fprintf(file, "%s\n", json);
        free(json);
    }
    return fflush(file) || ferror(file) ? -EIO : 0;
}

int plan_read(struct plan *plan, const char *path, struct why *why)
{
    FILE *file = fopen(path, "re");
    char *line = NULL;
    size_t room = 0;
    int err = 0;

    if (!file)
        return why_set(why, errno, "cannot read the plan %s: %s", path,
                       strerror(errno));
    while (!err && getline(&line, &room, file) > 0) {
        struct run_spec spec;

        err = run_spec_from_json(line, &spec, why);
        if (!err)
            err = push(plan, &spec, why);
    }
    free(line);
    fclose(file);
    return err;
}

void plan_free(struct plan *plan)
{
    free(plan->specs);
    *plan = (struct plan){NULL, 0, 0};
}
