/* `memvirt trace`: record what the model would follow. */
#include "base/parse.h"
#include "harness/bt_source.h"
#include "harness/commands.h"
#include "harness/model_source.h"
#include "harness/progress.h"
#include "harness/run_set.h"
#include "harness/technique.h"
#include "trace/file.h"
#include "workloads/catalog.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORDS 65536

static const char help[] =
    "Usage: memvirt trace -w WORKLOAD -o FILE [OPTION...]\n"
    "\n"
    "Records a workload: every load and store, every page-table write, fault,\n"
    "flush and address-space switch of the guest kernel. 'memvirt model -w\n"
    "trace:FILE' follows it, on any machine. docs/traces.md has the format.\n"
    "The workload is instrumented code in this process, or with -t bt the "
    "real\n"
    "guest in a VM, kernel and user program translated: all that it does.\n"
    "\n"
    "  -w, --workload NAME    as 'memvirt model -w' has it, imports too\n"
    "  -o, --output FILE      '-' is standard output\n"
    "  -t, --technique bt     the real guest; -w as 'memvirt run -w' has it\n"
    "      --size BYTES       working set\n"
    "      --guest-page SIZE  4K, 2M, 1G\n"
    "      --levels N         4 or 5, of the guest's tables\n"
    "      --ops N            operations\n"
    "      --seed N           of everything random\n"
    "      --ram SIZE         guest memory, instead of what the set needs\n"
    "      --pcid             let the guest kernel use PCIDs\n"
    "      --fetches          imports and bt: instruction fetches too\n"
    "\n"
    "Examples:\n"
    "  memvirt trace -w gups --size 64M -o gups.mvt\n"
    "  memvirt trace -t bt -w ctxsw --fetches -o system.mvt\n"
    "  memvirt trace -w lackey:trace.txt -o - | memvirt model -w trace:-\n";

enum {
    OPT_SIZE = 256,
    OPT_GUEST_PAGE,
    OPT_LEVELS,
    OPT_OPS,
    OPT_SEED,
    OPT_RAM,
    OPT_PCID,
    OPT_FETCHES,
};

static const struct option options[] = {
    {"workload", required_argument, NULL, 'w'},
    {"output", required_argument, NULL, 'o'},
    {"technique", required_argument, NULL, 't'},
    {"size", required_argument, NULL, OPT_SIZE},
    {"guest-page", required_argument, NULL, OPT_GUEST_PAGE},
    {"levels", required_argument, NULL, OPT_LEVELS},
    {"ops", required_argument, NULL, OPT_OPS},
    {"seed", required_argument, NULL, OPT_SEED},
    {"ram", required_argument, NULL, OPT_RAM},
    {"pcid", no_argument, NULL, OPT_PCID},
    {"fetches", no_argument, NULL, OPT_FETCHES},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

struct arguments {
    struct model_request request;
    const char *output;
    bool translated;
};

static int take(int option, struct arguments *arguments, struct why *why)
{
    struct model_request *ask = &arguments->request;

    switch (option) {
    case 'w':
        ask->workloads = optarg;
        return 0;
    case 'o':
        arguments->output = optarg;
        return 0;
    case 't':
        arguments->translated = !strcmp(optarg, "bt");
        return arguments->translated
                   ? 0
                   : why_set(why, EINVAL,
                             "-t: '%s' records nothing: bt does, and without "
                             "-t the workload is instrumented",
                             optarg);
    case OPT_SIZE:
        ask->sizes = optarg;
        return 0;
    case OPT_GUEST_PAGE:
        ask->guest_pages = optarg;
        return 0;
    case OPT_LEVELS:
        ask->levels = optarg;
        return 0;
    case OPT_PCID:
        ask->pcid = true;
        return 0;
    case OPT_FETCHES:
        ask->fetches = true;
        return 0;
    case OPT_OPS:
        return parse_number(optarg, "--ops", 1, 1ull << 48, &ask->operations,
                            why);
    case OPT_SEED:
        return parse_number(optarg, "--seed", 1, UINT64_MAX, &ask->seed, why);
    default:
        return parse_size(optarg, &ask->ram_bytes, why);
    }
}

/* 0 to go on, otherwise an exit status + 1. */
static int parse_arguments(int argc, char **argv, struct arguments *arguments)
{
    struct why why;
    int option, err = 0;

    optind = 1;
    while (!err &&
           (option = getopt_long(argc, argv, "w:o:t:h", options, NULL)) != -1) {
        if (option == 'h') {
            fputs(help, stdout);
            return 1;
        }
        if (option == '?')
            return 3;
        err = take(option, arguments, &why);
    }
    if (!err && optind < argc)
        err =
            why_set(&why, EINVAL, "unexpected '%s'; see 'memvirt trace --help'",
                    argv[optind]);
    if (!err && (!arguments->request.workloads || !arguments->output))
        err = why_set(&why, EINVAL,
                      "say what to record (-w) and where to (-o); see "
                      "'memvirt trace --help'");
    if (err)
        fprintf(stderr, "memvirt trace: %s\n", why.text);
    return err ? 3 : 0;
}

static int copy(struct event_source *source, struct trace_writer *writer,
                struct why *why)
{
    const volatile sig_atomic_t *stop = run_set_catch();
    uint64_t *words = malloc(WORDS * sizeof *words);
    long count = 1;
    int err = words ? 0 : why_set(why, ENOMEM, "out of memory");

    while (!err && count > 0) {
        count = source->read(source, words, WORDS, why);
        if (count < 0)
            err = (int)count;
        else if (count)
            err = trace_writer_write(writer, words, (size_t)count, why);
        if (!err && *stop)
            err = why_set(why, EINTR, "interrupted: nothing is written");
    }
    free(words);
    return err;
}

/* Takes origin and source. */
static int record(struct event_source *source, json_t *origin, const char *path,
                  struct why *why)
{
    struct trace_header header = {.guest = source->guest, .origin = origin};
    struct trace_writer *writer = NULL;
    int err = origin ? trace_writer_open(path, &header, &writer, why)
                     : why_set(why, ENOMEM, "out of memory");

    if (!err)
        err = copy(source, writer, why);
    if (err)
        trace_writer_abandon(writer);
    else
        err = trace_writer_close(writer, why);
    json_decref(origin);
    source->close(source);
    return err;
}

static int record_instrumented(const struct arguments *arguments,
                               struct why *why)
{
    struct event_source *source;
    struct model_plan plan;
    int err = model_plan_make(&plan, &arguments->request, why);

    if (!err && plan.pass_count != 1)
        err = why_set(why, EINVAL,
                      "a trace is of one workload with one set of parameters");
    if (!err)
        err = model_source_open(&plan.passes[0], &source, why);
    if (!err)
        err = record(source, model_source_origin(&plan.passes[0]),
                     arguments->output, why);
    model_plan_free(&plan);
    return err;
}

/* ---- The real guest ------------------------------------------------------ */

static int parse_one_size(const char *text, uint64_t *bytes, struct why *why)
{
    return text ? parse_size(text, bytes, why) : 0;
}

static int choose_params(const struct model_request *ask,
                         struct model_pass *pass, struct why *why)
{
    const struct workload *workload = workload_find(ask->workloads);
    int err;

    if (!workload)
        return why_set(why, EINVAL,
                       "there is no workload '%s': 'memvirt list workloads' "
                       "has them",
                       ask->workloads);
    if (ask->pcid || (ask->levels && strcmp(ask->levels, "4") != 0))
        return why_set(why, ENOTSUP,
                       "bt's guest has 4 levels of tables and no PCIDs");
    snprintf(pass->label, sizeof pass->label, "%s", workload->name);
    pass->params.operations = ask->operations;
    pass->params.seed = ask->seed;
    pass->params.vcpus = 1;
    err = parse_one_size(ask->sizes, &pass->params.working_set_bytes, why);
    if (!err)
        err = parse_one_size(ask->guest_pages, &pass->params.page_bytes, why);
    return err ? err : workload_check(workload, &pass->params, why);
}

static int record_translated(const struct arguments *arguments, struct why *why)
{
    const struct model_request *ask = &arguments->request;
    struct model_pass pass = {.fetches = ask->fetches};
    struct run_spec spec = {.technique = TECH_BT, .vcpus = 1};
    struct event_source *source;
    int err = choose_params(ask, &pass, why);
    json_t *origin;

    if (err)
        return err;
    spec.platform = platform_here();
    snprintf(spec.workload, sizeof spec.workload, "%s", pass.label);
    spec.working_set_bytes = pass.params.working_set_bytes;
    spec.guest_page_bytes = pass.params.page_bytes;
    spec.operations = pass.params.operations;
    spec.seed = pass.params.seed;
    spec.ram_bytes = ask->ram_bytes;
    err = bt_source_open(&spec, ask->fetches, &source, why);
    if (err)
        return err;
    origin = model_source_origin(&pass);
    if (origin)
        json_object_set_new(origin, "technique", json_string("bt"));
    return record(source, origin, arguments->output, why);
}

int cmd_trace(int argc, char **argv)
{
    struct arguments arguments = {.output = NULL};
    int status = parse_arguments(argc, argv, &arguments), err;
    struct why why;

    if (status)
        return status - 1;
    arguments.request.large_percent = 100;
    err = arguments.translated ? record_translated(&arguments, &why)
                               : record_instrumented(&arguments, &why);
    if (err)
        fprintf(stderr, "memvirt trace: %s\n", why.text);
    return err ? 1 : 0;
}
