#include "vmm/recorder.h"

#include "mmu/walk.h"
#include "model/tables.h"

#include <errno.h>
#include <stdlib.h>

#define BOOT_TABLES 4
#define KNOWN       1024 /* translations */

struct recorder {
    struct vm *vm;
    uint8_t *area;
    uint64_t va;
    struct bt_trace *trace;
    bool failed;          /* nobody takes the events, or without memory */
    unsigned ended, told; /* phases; those whose results were there */
    /* The guest's tables as far as the events are told: the log is behind what
     * is in its memory by now. */
    struct tables tables;
    uint64_t cr3;
    struct {
        uint64_t page, pa; /* page + 1; 0: empty */
    } known[KNOWN];
};

/* ---- Guest memory -------------------------------------------------------- */

static int read_entry(void *arg, uint64_t pa, uint64_t *entry)
{
    const struct recorder *r = arg;

    return tables_read(&r->tables, pa, entry);
}

static int set_entry(void *arg, uint64_t pa, uint64_t old, uint64_t bits)
{
    (void)arg, (void)pa, (void)old, (void)bits;
    return 0;
}

static bool locate(void *arg, uint64_t gva, uint64_t *gpa)
{
    struct recorder *r = arg;
    uint64_t page = gva & ~(PAGE_4K - 1), slot = (page >> 12) % KNOWN;

    if (!(gva >> 63)) /* user code's, which holds none */
        return false;
    if (r->known[slot].page != page + 1) {
        const struct mmu_state state = {
            .cr3 = r->cr3,
            .levels = 4,
            .physical_bits = 52,
            .nxe = true,
            .pages_1g = true,
        };
        const struct mmu_memory memory = {read_entry, set_entry, r};
        const struct mmu_request request = {.va = page, .access = MMU_READ};
        struct mmu_walk walk;

        mmu_walk(&state, &memory, &request, &walk);
        if (walk.outcome != MMU_OK || walk.pa >= r->tables.ram_bytes)
            return false;
        r->known[slot].page = page + 1;
        r->known[slot].pa = walk.pa;
    }
    *gpa = r->known[slot].pa + gva % PAGE_4K;
    return true;
}

/* As the CPU: what a walk found counts until it is flushed. */
static void happened(void *arg, const uint64_t *event)
{
    struct recorder *r = arg;

    switch (event_kind(event[0])) {
    case EVENT_STORE:
        r->failed |= tables_store(&r->tables, event[1], event[2]) == -ENOMEM;
        return;
    case EVENT_CLEAR:
        tables_clear(&r->tables, event_argument(event[0]));
        return;
    case EVENT_CR3:
        r->cr3 = event[1] & PTE_ADDR;
        break;
    }
    for (unsigned i = 0; i < KNOWN; i++)
        r->known[i].page = 0;
}

/* ---- Events -------------------------------------------------------------- */

/* The guest writes down what a phase did after it marks its end. */
static void tell_results(struct recorder *r, uint64_t *words, size_t count)
{
    const volatile struct guest_results *results =
        (const void *)(r->vm->memory.ram + GPA_RESULTS);

    for (size_t at = 0; at < count && r->told < r->ended;
         at += event_words(event_kind(words[at]))) {
        if (event_kind(words[at]) != EVENT_PHASE_END)
            continue;
        if (r->told < GUEST_PHASES_MAX && r->told < results->phases) {
            words[at + 1] = results->phase[r->told].operations;
            words[at + 2] = results->phase[r->told].checksum;
        }
        r->told++;
    }
}

static void take(void *arg, uint64_t *words, size_t count)
{
    struct recorder *r = arg;
    const struct vm_trace *trace = r->vm->config.software->trace;

    if (r->told < r->ended)
        tell_results(r, words, count);
    if (!r->failed)
        r->failed = !trace->take(trace->arg, words, count);
}

static void drain(void *arg)
{
    recorder_drain(arg);
}

int recorder_drain(struct recorder *r)
{
    struct bt_state *state = (struct bt_state *)(r->area + BT_STATE);
    uint64_t end = state->log - r->va;
    int err = -EINVAL;

    if (end >= BT_LOG && end <= BT_LOG_END + PAGE_4K && end % 8 == 0)
        err = bt_trace_expand(r->trace, (uint64_t *)(r->area + BT_LOG),
                              (end - BT_LOG) / 8);
    state->log = r->va + BT_LOG;
    return err ? err : r->failed ? -EPIPE : 0;
}

void recorder_begin(struct recorder *r, uint64_t cr3)
{
    struct bt_state *state = (struct bt_state *)(r->area + BT_STATE);

    state->log = r->va + BT_LOG;
    for (uint64_t pa = cr3; pa < cr3 + BOOT_TABLES * PAGE_4K; pa += 8) {
        uint64_t entry = *(uint64_t *)(r->vm->memory.ram + pa);

        if (entry)
            bt_trace_event(r->trace, EVENT_STORE, pa, pa, entry);
    }
    bt_trace_event(r->trace, EVENT_CR3, 0, cr3, 0);
}

void recorder_mark(struct recorder *r, enum wl_phase phase, bool begin)
{
    recorder_drain(r);
    r->ended += !begin;
    bt_trace_event(r->trace, begin ? EVENT_PHASE_BEGIN : EVENT_PHASE_END, phase,
                   0, 0);
}

int recorder_end(struct recorder *r)
{
    int err = recorder_drain(r);

    if (err)
        return err;
    bt_trace_event(r->trace, EVENT_END, 0, 0, 0);
    bt_trace_submit(r->trace);
    return r->failed ? -EPIPE : 0;
}

/* ---- Life ---------------------------------------------------------------- */

struct recorder *recorder_create(struct vm *vm, uint64_t ram_end, uint8_t *area,
                                 uint64_t va)
{
    struct recorder *r = calloc(1, sizeof *r);
    struct bt_trace_config config = {
        .fetches = vm->config.software->trace->fetches,
        .take = take,
        .happened = happened,
        .locate = locate,
        .drain = drain,
        .arg = r,
    };

    if (!r)
        return NULL;
    r->vm = vm;
    r->area = area;
    r->va = va;
    if (!tables_init(&r->tables, ram_end)) {
        r->trace = bt_trace_create(&config);
        if (r->trace)
            return r;
        tables_free(&r->tables);
    }
    free(r);
    return NULL;
}

void recorder_destroy(struct recorder *r)
{
    if (!r)
        return;
    bt_trace_destroy(r->trace);
    tables_free(&r->tables);
    free(r);
}

struct bt_trace *recorder_trace(struct recorder *r)
{
    return r->trace;
}
