#include "workloads/model/source.h"

#include "base/parse.h"
#include "workloads/catalog.h"
#include "workloads/limits.h"
#include "workloads/model/tracer.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define RAM_LEAST   PAGE_1G
#define RAM_OF_RAW  (256 * PAGE_1G)
#define RAM_OF_REST (256ull << 20) /* the kernel's, small mappings */

struct model_source {
    struct event_source base;
    struct ring *ring;
    pid_t child;  /* 0: reaped */
    size_t taken; /* words of the oldest batch that were given already */
    int error;    /* what read returns from now on */
    struct why why;
    char name[40];

    const struct workload *workload; /* NULL: raw */
    struct wl_params params;
    struct raw_source *raw;
    uint64_t page_bytes; /* of raw */
};

/* ---- The child process --------------------------------------------------- */

/* A sanitizer's handlers and a core of a terabyte are of no use here, and
 * SIGTERM must arrive. */
static void be_alone(pid_t parent)
{
    const struct rlimit none = {0, 0};
    sigset_t nothing;
    const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGINT};

    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        signal(signals[i], SIG_DFL);
    setrlimit(RLIMIT_CORE, &none);
    process_handle_term();
    sigemptyset(&nothing);
    sigprocmask(SIG_SETMASK, &nothing, NULL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(1);
}

__attribute__((noreturn)) static void produce(struct model_source *source)
{
    tracer_start(source->ring, &source->base.guest,
                 source->workload && source->workload->run);
    if (!source->workload)
        model_run_raw(source->raw, source->page_bytes);
    else if (source->workload->run)
        model_run_workload(source->workload, &source->params);
    else
        model_run_pattern(source->workload, &source->params);
    tracer_finish();
}

/* ---- Reading ------------------------------------------------------------- */

static int how_it_ended(struct model_source *source, int status)
{
    if (WIFSIGNALED(status))
        return why_set(&source->why, ECANCELED, "%s, instrumented, died of: %s",
                       source->name, strsignal(WTERMSIG(status)));
    return why_set(&source->why, ECANCELED,
                   "%s, instrumented, ended before its end", source->name);
}

/* Nothing came for a while: whether the child is still there to say it. */
static void look_for_the_child(struct model_source *source)
{
    struct ring *ring = source->ring;
    int status;

    if (waitpid(source->child, &status, WNOHANG) != source->child)
        return;
    source->child = 0;
    if (ring->state == RING_OPEN) {
        source->error = how_it_ended(source, status);
        ring_finish(ring, RING_DONE);
    }
}

/* As many words of whole events as there is room for. */
static size_t whole_events(const uint64_t *words, size_t count, size_t room)
{
    size_t at = 0;

    if (count <= room)
        return count;
    for (unsigned next;
         (next = event_words(event_kind(words[at]))) + at <= room;)
        at += next;
    return at;
}

static size_t take(struct model_source *source, uint64_t *words, size_t room)
{
    size_t count, part;
    const uint64_t *batch = ring_data(source->ring, &count);

    if (!batch)
        return 0;
    count -= source->taken;
    part = whole_events(batch + source->taken, count, room);
    memcpy(words, batch + source->taken, part * sizeof *words);
    source->taken += part;
    if (part == count) {
        ring_release(source->ring);
        source->taken = 0;
    }
    return part;
}

static int ending(struct model_source *source, struct why *why)
{
    const struct ring *ring = source->ring;

    if (!source->error && ring->state == RING_FAILED) {
        source->error = ring->error;
        source->why = ring->why;
    }
    if (source->error && why)
        *why = source->why;
    return source->error;
}

static long read_words(struct event_source *base, uint64_t *words, size_t room,
                       struct why *why)
{
    struct model_source *source = (struct model_source *)base;
    size_t count;

    if (room < EVENT_WORDS_MAX)
        return why_set(why, EINVAL, "no room for an event: a bug");
    while (!ring_ended(source->ring)) {
        count = take(source, words, room);
        if (count)
            return (long)count;
        if (source->child)
            look_for_the_child(source);
    }
    return ending(source, why);
}

static void close_source(struct event_source *base)
{
    struct model_source *source = (struct model_source *)base;

    if (source->child > 0) {
        kill(source->child, SIGTERM);
        while (waitpid(source->child, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    ring_destroy(source->ring);
    if (source->raw)
        source->raw->close(source->raw);
    free(source);
}

/* ---- Opening ------------------------------------------------------------- */

/* Twice the working set, for a fork that copies all of it; its tables; and
 * with large pages one for each of a few small mappings. */
static uint64_t ram_for(const struct wl_params *params)
{
    uint64_t bytes = params->working_set_bytes;

    return 2 * bytes + bytes / 128 + 4 * params->page_bytes + RAM_OF_REST;
}

static int choose_guest(struct event_guest *out,
                        const struct model_guest *asked, uint64_t ram,
                        struct why *why)
{
    unsigned levels = asked && asked->levels ? asked->levels : 4;

    if (asked && asked->ram_bytes)
        ram = asked->ram_bytes;
    if (levels != 4 && levels != 5)
        return why_set(why, EINVAL, "%u levels of paging: ask for 4 or 5",
                       levels);
    if (ram > RAM_MAX)
        return why_set(why, EINVAL,
                       "the model's guest has 32 TiB of memory at most: ask "
                       "for less, or for a smaller --size");
    if (ram < RAM_LEAST)
        ram = RAM_LEAST;
    *out = (struct event_guest){
        .levels = levels,
        .physical_bits = levels == 5 ? 52 : 46,
        .pages_1g = true,
        .pcid = asked && asked->pcid,
        .ram_bytes = (ram + PAGE_1G - 1) / PAGE_1G * PAGE_1G,
    };
    return 0;
}

static int start_child(struct model_source *source, struct why *why)
{
    pid_t parent = getpid();

    source->ring = ring_create(RING_BATCHES);
    if (!source->ring)
        return why_set(why, ENOMEM, "out of memory");
    source->child = fork();
    if (source->child < 0)
        return why_set(why, errno, "cannot start a process: %s",
                       strerror(errno));
    if (!source->child) {
        be_alone(parent);
        produce(source);
    }
    return 0;
}

/* `source` is freed when it cannot start. */
static int start(struct event_source **out, struct model_source *source,
                 const struct model_guest *guest, uint64_t ram, struct why *why)
{
    int err = choose_guest(&source->base.guest, guest, ram, why);

    source->base.read = read_words;
    source->base.close = close_source;
    if (!err)
        err = start_child(source, why);
    if (err)
        close_source(&source->base);
    else
        *out = &source->base;
    return err;
}

static int find(const struct workload **workload, const char *name,
                struct wl_params *params, struct why *why)
{
    const struct workload *nano = workload_find(name);

    *workload = model_find(name);
    if (!*workload && nano)
        return why_set(why, ENOTSUP,
                       "%s runs in the guest's kernel, which is not "
                       "instrumented: run it under a real technique",
                       name);
    if (!*workload)
        return why_set(why, EINVAL,
                       "there is no workload '%.40s': see memvirt "
                       "list",
                       name);
    if (params->vcpus > 1)
        return why_set(why, ENOTSUP,
                       "instrumented workloads run on one vCPU: "
                       "ask for --vcpus 1");
    return workload_check(*workload, params, why);
}

int model_open(struct event_source **source, const char *name,
               const struct wl_params *params, const struct model_guest *guest,
               struct why *why)
{
    const struct workload *workload;
    struct wl_params full = *params;
    struct model_source *made;
    int err = find(&workload, name, &full, why);

    if (err)
        return err;
    made = calloc(1, sizeof *made);
    if (!made)
        return why_set(why, ENOMEM, "out of memory");
    made->workload = workload;
    made->params = full;
    strncpy(made->name, name, sizeof made->name - 1);
    return start(source, made, guest, ram_for(&full), why);
}

int model_open_raw(struct event_source **source, struct raw_source *raw,
                   uint64_t page_bytes, const struct model_guest *guest,
                   struct why *why)
{
    struct model_source *made = NULL;
    int err = 0;

    if (!wl_page_size_known(page_bytes))
        err = why_set(why, EINVAL, "the page size must be 4K, 2M or 1G");
    else if (!(made = calloc(1, sizeof *made)))
        err = why_set(why, ENOMEM, "out of memory");
    if (err) {
        raw->close(raw);
        return err;
    }
    made->raw = raw;
    made->page_bytes = page_bytes;
    strcpy(made->name, "the trace");
    return start(source, made, guest, RAM_OF_RAW, why);
}
