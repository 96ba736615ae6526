/* `memvirt model`: plan, carry out, print, draw. */
#include "base/parse.h"
#include "harness/commands.h"
#include "harness/model_pass.h"
#include "harness/model_plan.h"
#include "harness/progress.h"
#include "harness/run_set.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>

static const char help[] =
    "Usage: memvirt model [OPTION...]\n"
    "\n"
    "Computes what a CPU's TLBs, paging-structure caches and page walks do\n"
    "under each technique, from every load and store of a workload and every\n"
    "page-table write, flush and address-space switch of the guest kernel.\n"
    "Needs no PMU, no VT-x and no KVM. All machines asked for follow one "
    "pass.\n"
    "\n"
    "  -t, --technique LIST   native, shadow, nested, agile, flat\n"
    "      --shadow-policy LIST  traced, unsync, vtlb (default unsync)\n"
    "  -w, --workload LIST    names, or memory, mmu, all (memvirt list);\n"
    "                         pattern:uniform, pattern:cyclic,\n"
    "                         pattern:sequential, pattern:zipf;\n"
    "                         trace:FILE, lackey:FILE, champsim:FILE,\n"
    "                         memtrace:FILE ('-': standard input)\n"
    "      --cpu LIST         profiles: names (memvirt list profiles) or "
    "files\n"
    "      --costs TABLE      cycles of exits: a name or a file\n"
    "      --size LIST        working sets, for example 64M,1G\n"
    "      --guest-page LIST  4K, 2M, 1G\n"
    "      --host-page LIST   4K, 2M, 1G\n"
    "      --large PERCENT    of the host's large pages that it finds "
    "(100)\n"
    "      --levels LIST      4+4, 4+5, 5+4, 5+5: guest and host\n"
    "      --agile-interval N accesses after which tables that nobody wrote "
    "to\n"
    "                         go back from nested to shadow mode (100000000)\n"
    "      --ops N            operations a run\n"
    "      --seed N           of everything random\n"
    "      --ram SIZE         guest memory, instead of what the set needs\n"
    "      --pcid             let the guest kernel use PCIDs\n"
    "      --data-in-caches   the accesses themselves use the data caches too\n"
    "      --fetches          imports: instruction fetches too\n"
    "      --no-figures       write CSV only\n"
    "  -o, --output DIR       result folder (default results/TIME-model)\n"
    "\n"
    "Examples:\n"
    "  memvirt model -w gups --size 64M\n"
    "  memvirt model -t native,shadow,nested,agile,flat -w memory "
    "--cpu zen4,ideal\n"
    "  memvirt model -t shadow --shadow-policy traced,unsync,vtlb -w mmu\n"
    "  memvirt model -t nested --levels 4+4,5+5 --host-page 4K,2M -w chase\n"
    "  xz -dc t.xz | memvirt model -w champsim:-\n";

struct arguments {
    struct model_request request;
    const char *output;
    bool no_figures;
};

enum {
    OPT_POLICY = 256,
    OPT_CPU,
    OPT_COSTS,
    OPT_SIZE,
    OPT_GUEST_PAGE,
    OPT_HOST_PAGE,
    OPT_LARGE,
    OPT_LEVELS,
    OPT_INTERVAL,
    OPT_OPS,
    OPT_SEED,
    OPT_RAM,
    OPT_PCID,
    OPT_DATA,
    OPT_FETCHES,
    OPT_NO_FIGURES,
};

static const struct option options[] = {
    {"technique", required_argument, NULL, 't'},
    {"shadow-policy", required_argument, NULL, OPT_POLICY},
    {"workload", required_argument, NULL, 'w'},
    {"cpu", required_argument, NULL, OPT_CPU},
    {"costs", required_argument, NULL, OPT_COSTS},
    {"size", required_argument, NULL, OPT_SIZE},
    {"guest-page", required_argument, NULL, OPT_GUEST_PAGE},
    {"host-page", required_argument, NULL, OPT_HOST_PAGE},
    {"large", required_argument, NULL, OPT_LARGE},
    {"levels", required_argument, NULL, OPT_LEVELS},
    {"agile-interval", required_argument, NULL, OPT_INTERVAL},
    {"ops", required_argument, NULL, OPT_OPS},
    {"seed", required_argument, NULL, OPT_SEED},
    {"ram", required_argument, NULL, OPT_RAM},
    {"pcid", no_argument, NULL, OPT_PCID},
    {"data-in-caches", no_argument, NULL, OPT_DATA},
    {"fetches", no_argument, NULL, OPT_FETCHES},
    {"no-figures", no_argument, NULL, OPT_NO_FIGURES},
    {"output", required_argument, NULL, 'o'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

/* ---- Arguments ----------------------------------------------------------- */

static bool take_flag(int option, struct arguments *arguments)
{
    switch (option) {
    case OPT_PCID:
        return arguments->request.pcid = true;
    case OPT_DATA:
        return arguments->request.data_in_caches = true;
    case OPT_FETCHES:
        return arguments->request.fetches = true;
    case OPT_NO_FIGURES:
        return arguments->no_figures = true;
    }
    return false;
}

static bool take_text(int option, struct arguments *arguments)
{
    struct model_request *request = &arguments->request;
    const struct {
        int option;
        const char **to;
    } texts[] = {
        {'t', &request->techniques},
        {'w', &request->workloads},
        {'o', &arguments->output},
        {OPT_POLICY, &request->policies},
        {OPT_CPU, &request->cpus},
        {OPT_COSTS, &request->costs},
        {OPT_SIZE, &request->sizes},
        {OPT_GUEST_PAGE, &request->guest_pages},
        {OPT_HOST_PAGE, &request->host_pages},
        {OPT_LEVELS, &request->levels},
    };

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (texts[i].option == option) {
            *texts[i].to = optarg;
            return true;
        }
    return false;
}

static int take_number(int option, struct model_request *request,
                       struct why *why)
{
    uint64_t percent = 100;
    int err;

    switch (option) {
    case OPT_OPS:
        return parse_number(optarg, "--ops", 1, 1ull << 48,
                            &request->operations, why);
    case OPT_SEED:
        return parse_number(optarg, "--seed", 1, UINT64_MAX, &request->seed,
                            why);
    case OPT_INTERVAL:
        return parse_number(optarg, "--agile-interval", 1, 1ull << 48,
                            &request->agile_interval, why);
    case OPT_RAM:
        return parse_size(optarg, &request->ram_bytes, why);
    default:
        err = parse_number(optarg, "--large", 0, 100, &percent, why);
        request->large_percent = (unsigned)percent;
        return err;
    }
}

/* 0 to go on, otherwise an exit status + 1. */
static int parse_arguments(int argc, char **argv, struct arguments *arguments)
{
    struct why why;
    int option, err = 0;

    optind = 1;
    while (!err &&
           (option = getopt_long(argc, argv, "t:w:o:h", options, NULL)) != -1) {
        if (option == 'h') {
            fputs(help, stdout);
            return 1;
        }
        if (option == '?')
            return 3;
        if (!take_flag(option, arguments) && !take_text(option, arguments))
            err = take_number(option, &arguments->request, &why);
    }
    if (!err && optind < argc)
        err =
            why_set(&why, EINVAL, "unexpected '%s'; see 'memvirt model --help'",
                    argv[optind]);
    if (err)
        fprintf(stderr, "memvirt model: %s\n", why.text);
    return err ? 3 : 0;
}

/* ---- The computation ----------------------------------------------------- */

static void pass_name(const struct model_pass *pass, char *text, size_t bytes)
{
    uint64_t size = pass->params.working_set_bytes;
    char buffer[32];

    snprintf(text, bytes, "%.40s%s%s", pass->label, size ? " " : "",
             size ? format_size(size, buffer, sizeof buffer) : "");
}

static void tell(void *arg, const struct model_pass *pass, uint64_t accesses)
{
    char name[80], text[160];

    pass_name(pass, name, sizeof name);
    snprintf(text, sizeof text, "%s: %.1f million accesses, %zu machines", name,
             (double)accesses / 1e6, pass->machine_count);
    progress_note(arg, text);
}

static int carry_out(const struct model_plan *plan, struct results *results,
                     unsigned *failed, struct why *why)
{
    struct progress progress;
    const struct model_watch watch = {tell, &progress, run_set_stop()};
    int err = 0;

    progress_start(&progress, plan->pass_count);
    for (size_t i = 0; !err && i < plan->pass_count; i++) {
        char name[80];

        tell(&progress, &plan->passes[i], 0);
        err = model_pass_run(&plan->passes[i], results, &watch, failed, why);
        pass_name(&plan->passes[i], name, sizeof name);
        progress_step(&progress, name);
    }
    progress_end(&progress);
    return err;
}

static int run_plan(const struct arguments *arguments,
                    const struct model_plan *plan, const char *folder)
{
    struct results *results;
    struct why why = {""}, close_why;
    unsigned failed = 0;
    int err = run_set_open(&results, folder, &why);

    if (err) {
        fprintf(stderr, "memvirt model: %s\n", why.text);
        return 1;
    }
    err = carry_out(plan, results, &failed, &why);
    if (results_close(results, &close_why) && !err)
        err = why_set(&why, EIO, "%s", close_why.text);
    if (!err)
        run_set_show("model", folder, !arguments->no_figures);
    if (err == -EINTR)
        fprintf(stderr, "memvirt model: interrupted; what is done is in %s\n",
                folder);
    else if (err)
        fprintf(stderr, "memvirt model: %s\n", why.text);
    else if (failed)
        fprintf(stderr,
                "memvirt model: %u machines failed: see their messages in "
                "%s/runs.csv\n",
                failed, folder);
    return err == -EINTR ? 128 + *run_set_stop() : err || failed;
}

int cmd_model(int argc, char **argv)
{
    struct arguments arguments = {.request = {.large_percent = 100}};
    int status = parse_arguments(argc, argv, &arguments);
    struct model_plan plan;
    struct why why;
    char folder[4200];

    if (status)
        return status - 1;
    if (model_plan_make(&plan, &arguments.request, &why)) {
        fprintf(stderr, "memvirt model: %s\n", why.text);
        status = 1;
    } else {
        status = run_plan(
            &arguments, &plan,
            run_set_folder(arguments.output, "-model", folder, sizeof folder));
    }
    model_plan_free(&plan);
    return status;
}
