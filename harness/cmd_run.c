/* `memvirt run` and `memvirt lab`: plan, carry out, print, draw. */
#include "base/parse.h"
#include "bt/cache.h"
#include "harness/commands.h"
#include "harness/execute.h"
#include "harness/plan.h"
#include "harness/run_set.h"
#include "harness/technique.h"
#include "harness/topology.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#define DEFAULT_TIME_LIMIT_S 120
#define BT_CACHE_MIN         (16u << 10)

static const char run_help[] =
    "Usage: memvirt run [OPTION...]\n"
    "       memvirt lab [--machine svm,vmx] -- run [OPTION...]\n"
    "\n"
    "Runs workloads under techniques and writes a result folder. Without -t\n"
    "and -w: the default experiment. What this machine cannot do runs in the\n"
    "lab, an emulated machine with real KVM; `memvirt lab` runs everything "
    "there.\n"
    "\n"
    "  -t, --technique LIST   native, emulation, shadow, nested, trap, pv,\n"
    "                         bt\n"
    "  -w, --workload LIST    names, or nano, compute, mmu, memory, all;\n"
    "                         test\n"
    "      --size LIST        working sets, for example 64K,1M,64M\n"
    "      --guest-page LIST  4K, 2M, 1G\n"
    "      --host-page LIST   4K, thp, 2M, 1G\n"
    "      --vcpus N          virtual CPUs, or threads of a process\n"
    "      --ops N            operations a run\n"
    "      --reps N           repetitions\n"
    "      --seed N           of everything random\n"
    "      --ram SIZE         guest memory, instead of what the set needs\n"
    "      --pcid             let the guest kernel use PCIDs\n"
    "      --shadow-policy LIST  of trap and bt: traced, unsync, vtlb (default "
    "unsync)\n"
    "      --shadow-roots N   shadow roots kept by trap and bt (default 64)\n"
    "      --assist LIST      on: trap, pv and bt handle traps in the VM; off: "
    "each\n"
    "                         in the VMM's process (default on)\n"
    "      --bt-adaptive LIST  on: bt makes a call-out of what keeps faulting; "
    "off:\n"
    "                         it stays as it is (default on)\n"
    "      --bt-cache SIZE    bt's translated code, 16K to 2M (default 2M)\n"
    "      --tlb-misses poison  of trap and bt: count misses of the real TLB "
    "without\n"
    "                         a PMU, by page size (docs/monitor.md)\n"
    "      --cpu SPEC         pin to hwloc objects: core:0, pu:1, ...\n"
    "      --numa SPEC        take memory from these NUMA nodes: 0, 0-1, ...\n"
    "      --time-limit S     seconds a run may take (default 120)\n"
    "      --image FILE       another guest image\n"
    "      --switch-kvm       turn the host's ept/npt switch as runs need it\n"
    "                         (root; put back at the end)\n"
    "      --no-lab           leave out what this machine cannot do\n"
    "      --no-counters      time only: halves the work of KVM's techniques\n"
    "      --no-figures       write CSV only\n"
    "  -o, --output DIR       result folder (default results/TIME)\n"
    "\n"
    "Examples:\n"
    "  memvirt run\n"
    "  memvirt run -t native,shadow -w gups,chase --size 1M,16M,64M --reps 5\n"
    "  memvirt run -t native,shadow,nested -w nano -o results/nano\n"
    "  memvirt lab --machine svm -- run -t shadow,nested -w invlpg,cr3\n"
    "  memvirt run -t native,trap -w gups --shadow-policy traced,vtlb\n";

struct run_arguments {
    struct plan_request request;
    const char *output, *plan;
    unsigned first_id; /* of the lab's rows */
    bool no_figures;
};

enum {
    OPT_SIZE = 256,
    OPT_GUEST_PAGE,
    OPT_HOST_PAGE,
    OPT_VCPUS,
    OPT_OPS,
    OPT_REPS,
    OPT_SEED,
    OPT_RAM,
    OPT_SHADOW_ROOTS,
    OPT_PCID,
    OPT_SHADOW_POLICY,
    OPT_ASSIST,
    OPT_BT_ADAPTIVE,
    OPT_BT_CACHE,
    OPT_TLB_MISSES,
    OPT_CPU,
    OPT_NUMA,
    OPT_TIME_LIMIT,
    OPT_IMAGE,
    OPT_SWITCH_KVM,
    OPT_NO_LAB,
    OPT_NO_FIGURES,
    OPT_NO_COUNTERS,
    OPT_PLAN, /* these two are not for people: the lab's side of a run */
    OPT_FIRST_ID,
};

static const struct option options[] = {
    {"technique", required_argument, NULL, 't'},
    {"workload", required_argument, NULL, 'w'},
    {"size", required_argument, NULL, OPT_SIZE},
    {"guest-page", required_argument, NULL, OPT_GUEST_PAGE},
    {"host-page", required_argument, NULL, OPT_HOST_PAGE},
    {"vcpus", required_argument, NULL, OPT_VCPUS},
    {"ops", required_argument, NULL, OPT_OPS},
    {"reps", required_argument, NULL, OPT_REPS},
    {"seed", required_argument, NULL, OPT_SEED},
    {"ram", required_argument, NULL, OPT_RAM},
    {"shadow-policy", required_argument, NULL, OPT_SHADOW_POLICY},
    {"shadow-roots", required_argument, NULL, OPT_SHADOW_ROOTS},
    {"assist", required_argument, NULL, OPT_ASSIST},
    {"bt-adaptive", required_argument, NULL, OPT_BT_ADAPTIVE},
    {"bt-cache", required_argument, NULL, OPT_BT_CACHE},
    {"tlb-misses", required_argument, NULL, OPT_TLB_MISSES},
    {"pcid", no_argument, NULL, OPT_PCID},
    {"cpu", required_argument, NULL, OPT_CPU},
    {"numa", required_argument, NULL, OPT_NUMA},
    {"time-limit", required_argument, NULL, OPT_TIME_LIMIT},
    {"image", required_argument, NULL, OPT_IMAGE},
    {"switch-kvm", no_argument, NULL, OPT_SWITCH_KVM},
    {"no-lab", no_argument, NULL, OPT_NO_LAB},
    {"no-figures", no_argument, NULL, OPT_NO_FIGURES},
    {"no-counters", no_argument, NULL, OPT_NO_COUNTERS},
    {"plan", required_argument, NULL, OPT_PLAN},
    {"first-id", required_argument, NULL, OPT_FIRST_ID},
    {"output", required_argument, NULL, 'o'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

/* ---- Arguments --------------------------------------------------------- */

static int number(const char *text, const char *what, uint64_t max,
                  unsigned *value, struct why *why)
{
    uint64_t wide;
    int err = parse_number(text, what, 1, max, &wide, why);

    *value = (unsigned)wide;
    return err;
}

static int take_number(int option, struct plan_request *request,
                       struct why *why)
{
    switch (option) {
    case OPT_VCPUS:
        return number(optarg, "--vcpus", 32, &request->vcpus, why);
    case OPT_SHADOW_ROOTS:
        return number(optarg, "--shadow-roots", SHADOW_ROOTS_MAX,
                      &request->shadow_roots, why);
    case OPT_REPS:
        return number(optarg, "--reps", 1000, &request->reps, why);
    case OPT_TIME_LIMIT:
        return number(optarg, "--time-limit", 86400, &request->time_limit_s,
                      why);
    case OPT_OPS:
        return parse_number(optarg, "--ops", 1, 1ull << 48,
                            &request->operations, why);
    case OPT_SEED:
        return parse_number(optarg, "--seed", 1, UINT64_MAX, &request->seed,
                            why);
    default:
        return parse_size(optarg, &request->ram_bytes, why);
    }
}

static void take_text(int option, struct run_arguments *arguments)
{
    struct plan_request *request = &arguments->request;
    const struct {
        int option;
        const char **to;
    } texts[] = {
        {'t', &request->techniques},
        {'w', &request->workloads},
        {'o', &arguments->output},
        {OPT_SIZE, &request->sizes},
        {OPT_GUEST_PAGE, &request->guest_pages},
        {OPT_HOST_PAGE, &request->host_pages},
        {OPT_SHADOW_POLICY, &request->policies},
        {OPT_ASSIST, &request->assists},
        {OPT_BT_ADAPTIVE, &request->adaptives},
        {OPT_CPU, &request->cpu},
        {OPT_NUMA, &request->numa},
        {OPT_IMAGE, &request->image},
        {OPT_PLAN, &arguments->plan},
    };

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (texts[i].option == option)
            *texts[i].to = optarg;
}

static bool take_flag(int option, struct run_arguments *arguments)
{
    switch (option) {
    case OPT_PCID:
        arguments->request.pcid = true;
        return true;
    case OPT_SWITCH_KVM:
        arguments->request.switch_kvm = true;
        return true;
    case OPT_NO_LAB:
        arguments->request.machines = "";
        return true;
    case OPT_NO_COUNTERS:
        arguments->request.uncounted = true;
        return true;
    case OPT_NO_FIGURES:
        arguments->no_figures = true;
        return true;
    }
    return false;
}

static int take_tlb_misses(struct plan_request *request, struct why *why)
{
    request->tlb_poison = true;
    return strcmp(optarg, "poison")
               ? why_set(why, EINVAL,
                         "--tlb-misses: '%s' is not poison, the one method "
                         "there is",
                         optarg)
               : 0;
}

static int take_bt_cache(struct plan_request *request, struct why *why)
{
    uint64_t bytes;
    int err = parse_size(optarg, &bytes, why);

    if (!err && (bytes < BT_CACHE_MIN || bytes > BT_CODE_MAX))
        err = why_set(why, EINVAL, "--bt-cache: %s is not from 16K to 2M",
                      optarg);
    request->bt_cache_bytes = (uint32_t)bytes;
    return err;
}

/* 0 to go on, otherwise an exit status + 1. */
static int parse_arguments(int argc, char **argv,
                           struct run_arguments *arguments)
{
    struct why why;
    int option, err = 0;

    optind = 1;
    while (!err &&
           (option = getopt_long(argc, argv, "t:w:o:h", options, NULL)) != -1) {
        if (option == 'h') {
            fputs(run_help, stdout);
            return 1;
        }
        if (option == '?')
            return 3;
        if (take_flag(option, arguments))
            continue;
        if (option == OPT_TLB_MISSES)
            err = take_tlb_misses(&arguments->request, &why);
        else if (option == OPT_BT_CACHE)
            err = take_bt_cache(&arguments->request, &why);
        else if (option == OPT_FIRST_ID)
            err = number(optarg, "--first-id", 1u << 30, &arguments->first_id,
                         &why);
        else if ((option >= OPT_VCPUS && option <= OPT_SHADOW_ROOTS) ||
                 option == OPT_TIME_LIMIT)
            err = take_number(option, &arguments->request, &why);
        else
            take_text(option, arguments);
    }
    if (!err && optind < argc)
        err = why_set(&why, EINVAL, "unexpected '%s'; see 'memvirt run --help'",
                      argv[optind]);
    if (err)
        fprintf(stderr, "memvirt run: %s\n", why.text);
    return err ? 3 : 0;
}

/* ---- The run ----------------------------------------------------------- */

static int make_plan(const struct run_arguments *arguments, struct plan *plan,
                     struct why *why)
{
    const struct plan_request *request = &arguments->request;
    int err = topology_check(request->cpu ? request->cpu : "",
                             request->numa ? request->numa : "", why);

    if (err)
        return err;
    if (arguments->plan)
        return plan_read(plan, arguments->plan, why);
    if (request->techniques || request->workloads)
        return plan_add(plan, request, why);
    return plan_add_default(plan, request, why);
}

static int finish(const struct execution *execution, int err,
                  const struct why *why)
{
    if (err == -EINTR)
        fprintf(stderr, "memvirt run: interrupted; %u of %zu runs are in %s\n",
                execution->done, execution->plan->count, execution->folder);
    else if (err)
        fprintf(stderr, "memvirt run: %s\n", why->text);
    else if (execution->failed)
        fprintf(stderr,
                "memvirt run: %u runs failed: see their messages in "
                "%s/runs.csv\n",
                execution->failed, execution->folder);
    if (err == -EINTR)
        return 128 + *run_set_stop();
    return err || execution->failed;
}

static int run_plan(const struct run_arguments *arguments,
                    const struct plan *plan, const char *folder)
{
    struct execution execution = {
        .plan = plan,
        .folder = folder,
        .switch_kvm = arguments->request.switch_kvm,
        .stop = run_set_stop(),
    };
    struct why why = {""}, close_why;
    int err = run_set_open(&execution.results, folder, &why);

    if (err) {
        fprintf(stderr, "memvirt run: %s\n", why.text);
        return 1;
    }
    if (arguments->first_id)
        results_number_from(execution.results, platform_here(),
                            arguments->first_id);
    err = execute(&execution, &why);
    if (results_close(execution.results, &close_why) && !err)
        err = why_set(&why, EIO, "%s", close_why.text);
    /* In the lab nobody reads a table or looks at figures. */
    if (!arguments->plan && (!err || err == -EINTR))
        run_set_show("run", folder, !arguments->no_figures);
    return finish(&execution, err, &why);
}

static int run(struct run_arguments *arguments)
{
    struct plan plan = {NULL, 0, 0};
    struct why why;
    char folder[4200];
    int status;

    if (!arguments->request.time_limit_s)
        arguments->request.time_limit_s = DEFAULT_TIME_LIMIT_S;
    if (make_plan(arguments, &plan, &why)) {
        fprintf(stderr, "memvirt run: %s\n", why.text);
        status = 2;
    } else {
        status = run_plan(
            arguments, &plan,
            run_set_folder(arguments->output, "", folder, sizeof folder));
    }
    plan_free(&plan);
    return status;
}

int cmd_run(int argc, char **argv)
{
    struct run_arguments arguments = {.output = NULL};
    int status = parse_arguments(argc, argv, &arguments);

    return status ? status - 1 : run(&arguments);
}

/* ---- memvirt lab ------------------------------------------------------- */

static const char lab_help[] =
    "Usage: memvirt lab [--machine svm,vmx] -- run [OPTION...]\n"
    "\n"
    "Runs in the lab: an emulated machine with a distribution's kernel and\n"
    "real KVM. svm (QEMU, AMD, NPT) repeats exactly and counts instructions;\n"
    "vmx (Bochs, Intel, EPT) is slower and can print every page-walk "
    "reference.\n"
    "The options are those of 'memvirt run'.\n"
    "\n"
    "Examples:\n"
    "  memvirt lab -- run -t shadow,nested -w invlpg,cr3,cpuid\n"
    "  memvirt lab --machine svm,vmx -- run -t shadow,nested -w remap\n";

int cmd_lab(int argc, char **argv)
{
    struct run_arguments arguments = {.request = {.lab_only = true}};
    const char *machines = NULL;
    int at = 1, status;

    if (at < argc && (!strcmp(argv[at], "-h") || !strcmp(argv[at], "--help"))) {
        fputs(lab_help, stdout);
        return 0;
    }
    if (at + 1 < argc && !strcmp(argv[at], "--machine")) {
        machines = argv[at + 1];
        at += 2;
    }
    if (at < argc && !strcmp(argv[at], "--"))
        at++;
    if (at >= argc || strcmp(argv[at], "run")) {
        fprintf(stderr, "memvirt lab: expected '-- run ...'; see 'memvirt lab "
                        "--help'\n");
        return 2;
    }
    status = parse_arguments(argc - at, argv + at, &arguments);
    if (status)
        return status - 1;
    arguments.request.machines = machines;
    return run(&arguments);
}
