/* `memvirt trace`: record what the model would follow. */
#include "base/parse.h"
#include "harness/commands.h"
#include "harness/model_source.h"
#include "harness/progress.h"
#include "harness/run_set.h"
#include "trace/file.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#define WORDS 65536

static const char help[] =
    "Usage: memvirt trace -w WORKLOAD -o FILE [OPTION...]\n"
    "\n"
    "Records a workload: every load and store, every page-table write, fault,\n"
    "flush and address-space switch of the guest kernel. 'memvirt model -w\n"
    "trace:FILE' follows it, on any machine. docs/traces.md has the format.\n"
    "\n"
    "  -w, --workload NAME    as 'memvirt model -w' has it, imports too\n"
    "  -o, --output FILE      '-' is standard output\n"
    "      --size BYTES       working set\n"
    "      --guest-page SIZE  4K, 2M, 1G\n"
    "      --levels N         4 or 5, of the guest's tables\n"
    "      --ops N            operations\n"
    "      --seed N           of everything random\n"
    "      --ram SIZE         guest memory, instead of what the set needs\n"
    "      --pcid             let the guest kernel use PCIDs\n"
    "      --fetches          imports: instruction fetches too\n"
    "\n"
    "Examples:\n"
    "  memvirt trace -w gups --size 64M -o gups.mvt\n"
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
           (option = getopt_long(argc, argv, "w:o:h", options, NULL)) != -1) {
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

static int record(const struct model_pass *pass, const char *path,
                  struct why *why)
{
    struct event_source *source;
    struct trace_writer *writer = NULL;
    struct trace_header header;
    int err = model_source_open(pass, &source, why);

    if (err)
        return err;
    header.guest = source->guest;
    header.origin = model_source_origin(pass);
    err = header.origin ? trace_writer_open(path, &header, &writer, why)
                        : why_set(why, ENOMEM, "out of memory");
    if (!err)
        err = copy(source, writer, why);
    if (err)
        trace_writer_abandon(writer);
    else
        err = trace_writer_close(writer, why);
    json_decref(header.origin);
    source->close(source);
    return err;
}

int cmd_trace(int argc, char **argv)
{
    struct arguments arguments = {.output = NULL};
    int status = parse_arguments(argc, argv, &arguments), err;
    struct model_plan plan;
    struct why why;

    if (status)
        return status - 1;
    arguments.request.large_percent = 100;
    err = model_plan_make(&plan, &arguments.request, &why);
    if (!err && plan.pass_count != 1)
        err = why_set(&why, EINVAL,
                      "a trace is of one workload with one set of parameters");
    if (!err)
        err = record(&plan.passes[0], arguments.output, &why);
    if (err)
        fprintf(stderr, "memvirt trace: %s\n", why.text);
    model_plan_free(&plan);
    return err ? 1 : 0;
}
