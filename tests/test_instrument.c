/*
 * The stream of events of instrumented workloads. Its oracle is a consumer
 * that knows nothing but the stream: it rebuilds the guest's page tables from
 * the stores and walks them for every access and every fault.
 */
#include "base/program.h"
#include "harness/image.h"
#include "tests/test.h"
#include "workloads/abi.h"
#include "workloads/catalog.h"
#include "workloads/linux/process.h"
#include "workloads/model/source.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORDS 3000 /* no divisor of anything, so that batches are split */

#define PCIDS         4096u
#define PHASES_MAX    8
#define STALE_ENTRIES (1u << 16)

#ifdef __SANITIZE_ADDRESS__
#define FEWER 4
#else
#define FEWER 1
#endif

struct phase {
    enum wl_phase phase;
    uint64_t operations, checksum;
};

/* A translation that a TLB may hold: nothing said otherwise yet. */
struct stale {
    uint64_t page, frame; /* page: 0 when empty */
    uint32_t generation;
    uint16_t pcid;
    bool writable;
};

struct checker {
    struct event_guest guest;
    uint8_t *ram;
    uint8_t *written; /* one byte a frame */
    struct mmu_state state;
    bool paging;
    unsigned pcid;
    uint32_t generation[PCIDS];
    struct stale *stale;

    uint64_t kinds[EVENT_KINDS];
    uint64_t faults_in[WL_PHASES], accesses_in[WL_PHASES];
    int phase; /* -1: none */
    struct phase phases[PHASES_MAX];
    unsigned phase_count;
    uint64_t lowest, highest; /* of user accesses */
    uint64_t kept;            /* MOV CR3 that flush nothing */
    char wrong[160];          /* the first thing that is */
};

__attribute__((format(printf, 2, 3))) static bool wrong(struct checker *c,
                                                        const char *format, ...)
{
    va_list arguments;

    if (c->wrong[0])
        return false;
    va_start(arguments, format);
    vsnprintf(c->wrong, sizeof c->wrong, format, arguments);
    va_end(arguments);
    return false;
}

static int read_entry(void *arg, uint64_t pa, uint64_t *entry)
{
    const struct checker *c = arg;

    if (pa >= c->guest.ram_bytes)
        return -EFAULT;
    memcpy(entry, c->ram + pa, sizeof *entry);
    return 0;
}

static int set_bits(void *arg, uint64_t pa, uint64_t old, uint64_t bits)
{
    const struct checker *c = arg;

    old |= bits;
    memcpy(c->ram + pa, &old, sizeof old);
    return 0;
}

static void walk(struct checker *c, uint64_t va, enum mmu_access access,
                 bool user, struct mmu_walk *result)
{
    const struct mmu_memory memory = {read_entry, set_bits, c};
    const struct mmu_request request = {
        .va = va, .access = access, .user = user};

    mmu_walk(&c->state, &memory, &request, result);
}

/* What could be in a TLB must be what is in the tables: otherwise a flush is
 * missing in the stream. */
static void check_stale(struct checker *c, uint64_t va, enum mmu_access access,
                        const struct mmu_walk *w)
{
    uint64_t page = va >> 12;
    struct stale *s =
        &c->stale[(page ^ page >> 16 ^ (uint64_t)c->pcid << 7) % STALE_ENTRIES];
    bool holds = s->page == page && s->pcid == c->pcid &&
                 s->generation == c->generation[c->pcid];

    if (holds && (access != MMU_WRITE || s->writable) &&
        (w->outcome != MMU_OK || w->pa >> 12 != s->frame))
        wrong(c, "a TLB may hold another translation of 0x%" PRIx64, va);
    if (w->outcome == MMU_OK)
        *s = (struct stale){page, w->pa >> 12, c->generation[c->pcid],
                            (uint16_t)c->pcid, w->writable && w->dirty};
}

static void user_access(struct checker *c, uint64_t va, enum mmu_access access)
{
    struct mmu_walk w;

    walk(c, va, access, true, &w);
    if (w.outcome != MMU_OK)
        wrong(c, "an access at 0x%" PRIx64 " is not allowed: %#x", va, w.error);
    check_stale(c, va, access, &w);
    if (c->phase >= 0)
        c->accesses_in[c->phase]++;
    c->lowest = va < c->lowest ? va : c->lowest;
    c->highest = va > c->highest ? va : c->highest;
}

static void kernel_access(struct checker *c, uint64_t va,
                          enum mmu_access access, const uint64_t *pa)
{
    struct mmu_walk w;

    if (!c->paging)
        return;
    walk(c, va, access, false, &w);
    if (w.outcome != MMU_OK || (pa && w.pa != *pa))
        wrong(c, "the kernel cannot access 0x%" PRIx64, va);
}

static void store(struct checker *c, const uint64_t *words)
{
    if (words[1] & 7 || words[1] >= c->guest.ram_bytes) {
        wrong(c, "a store outside of RAM, at 0x%" PRIx64, words[1]);
        return;
    }
    kernel_access(c, event_va(words[0]), MMU_WRITE, &words[1]);
    memcpy(c->ram + words[1], &words[2], sizeof words[2]);
    c->written[words[1] / PAGE_4K] = 1;
}

static void clear(struct checker *c, uint64_t pa)
{
    if (pa & (PAGE_4K - 1) || pa >= c->guest.ram_bytes)
        wrong(c, "clears 0x%" PRIx64, pa);
    else if (c->written[pa / PAGE_4K])
        memset(c->ram + pa, 0, PAGE_4K);
}

static void fault(struct checker *c, uint64_t va, unsigned error)
{
    enum mmu_access access = error & PF_I   ? MMU_FETCH
                             : error & PF_W ? MMU_WRITE
                                            : MMU_READ;
    struct mmu_walk w;

    walk(c, va, access, error & PF_U, &w);
    if (w.outcome != MMU_PAGE_FAULT || (unsigned)w.error != error)
        wrong(c, "no fault %#x at 0x%" PRIx64 ", but %#x", error, va, w.error);
    check_stale(c, va, access, &w);
    if (c->phase >= 0)
        c->faults_in[c->phase]++;
}

/* INVLPG of a larger page is taken for a flush of all: a weaker check. */
static void invlpg(struct checker *c, uint64_t va)
{
    struct mmu_walk w;
    uint64_t page = va >> 12;
    struct stale *s =
        &c->stale[(page ^ page >> 16 ^ (uint64_t)c->pcid << 7) % STALE_ENTRIES];

    walk(c, va, MMU_READ, false, &w);
    if (w.page_bytes > PAGE_4K || w.references < c->guest.levels)
        c->generation[c->pcid]++;
    else if (s->page == page && s->pcid == c->pcid)
        s->page = 0;
}

static void load_cr3(struct checker *c, uint64_t value)
{
    c->paging = true;
    c->state.cr3 = value;
    c->pcid = c->guest.pcid ? value & (PCIDS - 1) : 0;
    if (c->guest.pcid && value >> 63)
        c->kept++;
    else
        c->generation[c->pcid]++;
    if (!c->guest.pcid && value >> 63)
        wrong(c, "bit 63 of CR3 without PCIDs");
}

static void end_phase(struct checker *c, const uint64_t *words)
{
    if (c->phase != (int)event_argument(words[0]) ||
        c->phase_count == PHASES_MAX) {
        wrong(c, "a phase ends that did not begin");
        return;
    }
    c->phases[c->phase_count++] =
        (struct phase){(enum wl_phase)c->phase, words[1], words[2]};
    c->phase = -1;
}

static void check(struct checker *c, const uint64_t *words)
{
    unsigned kind = event_kind(words[0]);
    uint64_t va = event_va(words[0]);

    switch (kind) {
    case EVENT_READ:
    case EVENT_WRITE:
    case EVENT_FETCH:
        user_access(c, va, (enum mmu_access)kind);
        break;
    case EVENT_KERNEL_READ:
    case EVENT_KERNEL_WRITE:
    case EVENT_KERNEL_FETCH:
        kernel_access(c, va, (enum mmu_access)(kind - EVENT_KERNEL_READ), NULL);
        break;
    case EVENT_STORE:
        store(c, words);
        break;
    case EVENT_FAULT:
        fault(c, va, (unsigned)words[1]);
        break;
    case EVENT_CLEAR:
        clear(c, event_argument(words[0]));
        break;
    case EVENT_INVLPG:
        invlpg(c, va);
        break;
    case EVENT_CR3:
        load_cr3(c, words[1]);
        break;
    case EVENT_PHASE_BEGIN:
        c->phase = (int)event_argument(words[0]);
        break;
    case EVENT_PHASE_END:
        end_phase(c, words);
        break;
    }
    c->kinds[kind]++;
}

static void *sparse(uint64_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (memory == MAP_FAILED)
        abort();
    madvise(memory, bytes, MADV_NOHUGEPAGE);
    return memory;
}

static struct checker *checker_create(const struct event_source *source)
{
    struct checker *c = calloc(1, sizeof *c);

    if (!c || !(c->stale = calloc(STALE_ENTRIES, sizeof *c->stale)))
        abort();
    c->guest = source->guest;
    c->ram = sparse(c->guest.ram_bytes);
    c->written = sparse(c->guest.ram_bytes / PAGE_4K);
    c->phase = -1;
    c->lowest = UINT64_MAX;
    c->state = (struct mmu_state){
        .levels = c->guest.levels,
        .physical_bits = c->guest.physical_bits,
        .wp = true,
        .nxe = true,
        .pages_1g = c->guest.pages_1g,
    };
    return c;
}

static void checker_free(struct checker *c)
{
    munmap(c->ram, c->guest.ram_bytes);
    munmap(c->written, c->guest.ram_bytes / PAGE_4K);
    free(c->stale);
    free(c);
}

/* Follows a source to its end and closes it. */
static void follow(struct checker *c, struct event_source *source,
                   struct why *why)
{
    uint64_t words[WORDS];
    long count;

    while ((count = source->read(source, words, WORDS, why)) > 0) {
        for (long i = 0; i < count; i += event_words(event_kind(words[i]))) {
            unsigned size = event_words(event_kind(words[i]));

            if (!size || i + size > count) {
                wrong(c, "a batch that is not made of whole events");
                break;
            }
            check(c, &words[i]);
        }
    }
    if (count)
        wrong(c, "%s", why->text);
    else if (c->kinds[EVENT_END] != 1)
        wrong(c, "%" PRIu64 " ends", c->kinds[EVENT_END]);
    source->close(source);
}

static struct checker *run(const char *name, const struct wl_params *params,
                           const struct model_guest *guest)
{
    struct event_source *source;
    struct checker *c;
    struct why why = {""};

    if (model_open(&source, name, params, guest, &why)) {
        printf("%s: %s\n", name, why.text);
        CU_FAIL_FATAL("the source does not open");
    }
    c = checker_create(source);
    follow(c, source, &why);
    if (c->wrong[0])
        printf("\n%s, pages of %" PRIu64 " KiB, %u levels, pcid %d: %s\n", name,
               params->page_bytes >> 10, c->guest.levels, c->guest.pcid,
               c->wrong);
    CU_ASSERT_STRING_EQUAL(c->wrong, "");
    return c;
}

/* ---- Every workload on every kind of guest ------------------------------ */

/* Enough pages for a flush by CR3 with an odd seed, few enough for INVLPGs
 * with an even one. */
static struct wl_params small(const struct workload *w, uint64_t page_bytes,
                              uint64_t seed)
{
    struct wl_params p = {.page_bytes = page_bytes, .vcpus = 1, .seed = seed};

    p.operations = (w->class == WL_MMU ? 20 : 4000) / FEWER;
    if (w->default_working_set_bytes)
        p.working_set_bytes = 400000 / FEWER;
    if (w->class == WL_MMU && page_bytes < PAGE_1G)
        p.working_set_bytes = (seed & 1 ? 40 : 20) * page_bytes;
    if (!strcmp(w->name, "pi"))
        p.operations = 20;
    return p;
}

static void every_workload(uint64_t page_bytes, unsigned levels, bool pcid)
{
    const struct model_guest guest = {.levels = levels, .pcid = pcid};

    for (const struct workload *const *w = model_catalog(); *w; w++) {
        struct wl_params p = small(*w, page_bytes, levels + pcid);
        struct checker *c;

        if (page_bytes == PAGE_1G && (!strcmp((*w)->name, "process") ||
                                      !strcmp((*w)->name, "forkwait") ||
                                      !strcmp((*w)->name, "mapunmap")))
            p.operations = 1; /* 262144 clears each */
        c = run((*w)->name, &p, &guest);
        CU_ASSERT(c->phase_count > 0);
        checker_free(c);
    }
}

static void tables_allow_4k(void)
{
    every_workload(PAGE_4K, 4, false);
}

static void tables_allow_4k_pcid(void)
{
    every_workload(PAGE_4K, 4, true);
}

static void tables_allow_4k_5_levels(void)
{
    every_workload(PAGE_4K, 5, false);
    every_workload(PAGE_4K, 5, true);
}

static void tables_allow_2m(void)
{
    every_workload(PAGE_2M, 4, false);
    every_workload(PAGE_2M, 5, true);
}

static void tables_allow_1g(void)
{
    every_workload(PAGE_1G, 4, true);
    every_workload(PAGE_1G, 5, false);
}

/* ---- Against the same workloads as processes ---------------------------- */

struct found {
    struct phase phases[PHASES_MAX];
    unsigned count;
};

static void note_phase(void *arg, enum wl_phase phase, uint64_t operations,
                       uint64_t tsc_begin, uint64_t tsc_end, uint64_t checksum)
{
    struct found *found = arg;

    (void)tsc_begin;
    (void)tsc_end;
    if (found->count < PHASES_MAX)
        found->phases[found->count++] =
            (struct phase){phase, operations, checksum};
}

static void same_as_a_process(const struct workload *w)
{
    struct wl_params p = small(w, PAGE_4K, 7);
    struct found found = {.count = 0};
    const struct wl_linux_hooks hooks = {.phase_end = note_phase,
                                         .arg = &found};
    struct checker *c;
    struct why why;

    CU_ASSERT_EQUAL(wl_linux_run(w, &p, &hooks, NULL, &why), 0);
    c = run(w->name, &p, NULL);
    CU_ASSERT_EQUAL_FATAL(c->phase_count, found.count);
    for (unsigned i = 0; i < found.count; i++) {
        CU_ASSERT_EQUAL(c->phases[i].phase, found.phases[i].phase);
        CU_ASSERT_EQUAL(c->phases[i].operations, found.phases[i].operations);
        CU_ASSERT_EQUAL(c->phases[i].checksum, found.phases[i].checksum);
    }
    checker_free(c);
}

static void checksums_of_processes(void)
{
    unsigned count = 0;

    for (const struct workload *const *w = workload_catalog(); *w; w++) {
        if (!(*w)->run || (*w)->class == WL_COMPUTE)
            continue;
        same_as_a_process(*w);
        count++;
    }
    CU_ASSERT(count >= 18);
}

/* ---- Against the real guest ---------------------------------------------- */

#define FAULTS_MAX 20000

struct fault {
    uint64_t va, error;
};

struct faults {
    struct fault fault[FAULTS_MAX];
    unsigned count;
};

/* Faults on what the workload mapped: its stack is no part of the stream. */
static void note_fault(struct faults *faults, uint64_t va, uint64_t error)
{
    if (va >= 0x1000000000 && va < 0x7f0000000000 && faults->count < FAULTS_MAX)
        faults->fault[faults->count++] = (struct fault){va, error};
}

/* QEMU's log has a line for each exception that the guest takes. */
static void faults_of_guest(const char *name, const struct wl_params *p,
                            struct faults *faults)
{
    struct guest_config config = {.magic = GUEST_CONFIG_MAGIC,
                                  .version = GUEST_ABI_VERSION,
                                  .working_set_bytes = p->working_set_bytes,
                                  .page_bytes = p->page_bytes,
                                  .operations = p->operations,
                                  .seed = p->seed,
                                  .vcpus = 1};
    char *folder = test_folder(), *output = NULL, path[512], line[512];
    const char *cr2;
    FILE *file;

    snprintf(config.workload, sizeof config.workload, "%s", name);
    snprintf(path, sizeof path, "%s/config", folder);
    file = fopen(path, "we");
    CU_ASSERT_FATAL(file && fwrite(&config, sizeof config, 1, file) == 1);
    fclose(file);
    test_shell(&output,
               "timeout 60 qemu-system-x86_64 -accel tcg -cpu "
               "max,-rdrand,-rdseed -nodefaults -nographic -no-reboot -m 4096 "
               "-kernel %s -initrd %s -device isa-debug-exit,iobase=0xf4 "
               "-d int -D %s/log",
               image_default_path(), path, folder);
    snprintf(path, sizeof path, "%s/log", folder);
    file = fopen(path, "re");
    CU_ASSERT_FATAL(file != NULL);
    while (fgets(line, sizeof line, file))
        if (strstr(line, "v=0e e=") && (cr2 = strstr(line, "CR2=")))
            note_fault(faults, strtoull(cr2 + 4, NULL, 16),
                       strtoull(strstr(line, " e=") + 3, NULL, 16));
    fclose(file);
    free(folder);
    free(output);
}

static void faults_of_model(const char *name, const struct wl_params *p,
                            struct faults *faults)
{
    struct event_source *source;
    uint64_t words[WORDS];
    struct why why;
    long count;

    CU_ASSERT_EQUAL_FATAL(model_open(&source, name, p, NULL, &why), 0);
    while ((count = source->read(source, words, WORDS, &why)) > 0)
        for (long i = 0; i < count; i += event_words(event_kind(words[i])))
            if (event_kind(words[i]) == EVENT_FAULT)
                note_fault(faults, event_va(words[i]), words[i + 1]);
    CU_ASSERT_EQUAL(count, 0);
    source->close(source);
}

static void same_as_the_guest(const char *name, uint64_t page_bytes,
                              uint64_t bytes, uint64_t operations)
{
    const struct wl_params p = {.working_set_bytes = bytes,
                                .page_bytes = page_bytes,
                                .operations = operations,
                                .seed = 11,
                                .vcpus = 1};
    struct faults *guest = calloc(1, sizeof *guest);
    struct faults *model = calloc(1, sizeof *model);

    CU_ASSERT_FATAL(guest && model);
    faults_of_guest(name, &p, guest);
    faults_of_model(name, &p, model);
    if (guest->count != model->count)
        printf("\n%s: %u faults in the guest, %u here\n", name, guest->count,
               model->count);
    CU_ASSERT(guest->count > 0);
    CU_ASSERT_EQUAL(guest->count, model->count);
    CU_ASSERT(!memcmp(guest->fault, model->fault, sizeof guest->fault));
    free(guest);
    free(model);
}

static void faults_of_the_guest(void)
{
    if (!program_in_path("qemu-system-x86_64")) {
        test_skip("no qemu-system-x86_64: 'apt install qemu-system-x86'");
        return;
    }
    same_as_the_guest("gups", PAGE_4K, 1 << 20, 1000);
    same_as_the_guest("btree", PAGE_2M, 4 << 20, 1000);
    same_as_the_guest("segv", PAGE_4K, 40 * PAGE_4K, 300);
    same_as_the_guest("segv", PAGE_2M, 5 * PAGE_2M, 30);
    same_as_the_guest("process", PAGE_4K, 10 * PAGE_4K, 10);
    same_as_the_guest("forkwait", PAGE_4K, 40 * PAGE_4K, 10);
    same_as_the_guest("forkwait", PAGE_2M, 3 * PAGE_2M, 3);
    same_as_the_guest("mapunmap", PAGE_4K, 40 * PAGE_4K, 10);
    same_as_the_guest("firsttouch", PAGE_1G, 1 << 20, 1);
    same_as_the_guest("firsttouch", PAGE_4K, 1 << 20, 256);
}

/* ---- Closed forms ---------------------------------------------------------
 */

/* A memory workload that makes so many accesses an operation: before them come
 * one write a page and one a word, and a warm-up. */
static void count_accesses(const char *name, uint64_t reads, uint64_t writes)
{
    const struct wl_params p = {.working_set_bytes = 1 << 20,
                                .page_bytes = PAGE_4K,
                                .operations = 10000,
                                .vcpus = 1,
                                .seed = 3};
    uint64_t pages = p.working_set_bytes / PAGE_4K;
    uint64_t words = p.working_set_bytes / 8, operations = 10000 + 2501;
    struct checker *c = run(name, &p, NULL);

    CU_ASSERT_EQUAL(c->kinds[EVENT_READ], reads * operations);
    CU_ASSERT_EQUAL(c->kinds[EVENT_WRITE], pages + words + writes * operations);
    CU_ASSERT_EQUAL(c->kinds[EVENT_FAULT], pages);
    CU_ASSERT_EQUAL(c->faults_in[WL_FIRST_TOUCH], pages);
    CU_ASSERT_EQUAL(c->accesses_in[WL_FIRST_TOUCH], pages);
    CU_ASSERT_EQUAL(c->accesses_in[WL_INIT], words);
    CU_ASSERT_EQUAL(c->accesses_in[WL_STEADY], (reads + writes) * 10000);
    CU_ASSERT_EQUAL(c->lowest, 0x1000000000);
    CU_ASSERT_EQUAL(c->highest, 0x1000000000 + p.working_set_bytes - 8);
    checker_free(c);
}

static void accesses_are_all(void)
{
    count_accesses("seq", 1, 1);
    count_accesses("stride", 1, 0);
    count_accesses("gups", 1, 1);
}

/* Copy-on-write by hand: the child writes 8 pages, then the parent does. Each
 * of the child's copies, and the parent's finds itself alone. */
static void forks_copy_on_write(void)
{
    const struct wl_params p = {.working_set_bytes = 8 * PAGE_4K,
                                .page_bytes = PAGE_4K,
                                .operations = 10,
                                .vcpus = 1,
                                .seed = 1};
    struct checker *c = run("forkwait", &p, NULL);

    CU_ASSERT_EQUAL(c->kinds[EVENT_FAULT], 16 * (10 + 2));
    CU_ASSERT_EQUAL(c->faults_in[WL_STEADY], 16 * 10);
    /* clone's, the two switches', the boot's two */
    CU_ASSERT_EQUAL(c->kinds[EVENT_CR3], 2 + 3 * (10 + 2));
    /* after the first fork, 9 tables and 8 pages are frames used before */
    CU_ASSERT_EQUAL(c->kinds[EVENT_CLEAR], (9 + 8) * (10 + 1));
    checker_free(c);
}

/* Two a round trip, the child's end and its reaping; with PCIDs only the first
 * switch to the child, of a PCID never used, flushes. */
static void switches_keep_translations(void)
{
    const struct wl_params p = {.operations = 20};
    const struct model_guest tagged = {.pcid = true};
    uint64_t switches = 2 * (20 + 3) + 2;

    for (unsigned pcid = 0; pcid < 2; pcid++) {
        struct checker *c = run("ctxsw", &p, pcid ? &tagged : NULL);

        CU_ASSERT_EQUAL(c->kinds[EVENT_CR3], 3 + switches);
        CU_ASSERT_EQUAL(c->kept, pcid ? switches - 1 : 0);
        checker_free(c);
    }
}

/* ---- Patterns -------------------------------------------------------------
 */

static void patterns_count(void)
{
    static const char *const names[] = {"pattern:uniform", "pattern:cyclic",
                                        "pattern:sequential", "pattern:zipf"};
    const struct wl_params p = {.working_set_bytes = 1000 * PAGE_4K,
                                .page_bytes = PAGE_4K,
                                .operations = 5000};

    for (unsigned i = 0; i < 4; i++) {
        struct checker *c = run(names[i], &p, NULL);

        CU_ASSERT_EQUAL(c->accesses_in[WL_FIRST_TOUCH], 1000);
        CU_ASSERT_EQUAL(c->accesses_in[WL_STEADY], 5000);
        CU_ASSERT_EQUAL(c->kinds[EVENT_FAULT], 1000);
        CU_ASSERT(c->highest < 0x1000000000 + 1000 * PAGE_4K);
        checker_free(c);
    }
}

/* Fewer operations than pages: pages appear as they are accessed. */
static void patterns_are_large(void)
{
    static const uint64_t pages[] = {PAGE_4K, PAGE_2M, PAGE_1G};

    for (unsigned i = 0; i < 3; i++) {
        const struct wl_params p = {.working_set_bytes = 1ull << 40,
                                    .page_bytes = pages[i],
                                    .operations = 1000,
                                    .seed = 5};
        struct checker *c = run("pattern:uniform", &p, NULL);

        CU_ASSERT_EQUAL(c->accesses_in[WL_STEADY], 1000);
        CU_ASSERT(c->highest - c->lowest > 1ull << 39);
        checker_free(c);
    }
}

/* ---- Bare accesses --------------------------------------------------------
 */

struct listed {
    struct raw_source base;
    const struct raw_access *next, *end;
    int error; /* at the end */
    bool *closed;
};

static long read_listed(struct raw_source *base, struct raw_access *out,
                        size_t room, struct why *why)
{
    struct listed *list = (struct listed *)base;
    size_t count = 0;

    while (count < room && count < 2 && list->next < list->end)
        out[count++] = *list->next++;
    if (!count && list->error)
        return why_set(why, list->error, "trace.x:17: bad record");
    return (long)count;
}

static void close_listed(struct raw_source *base)
{
    struct listed *list = (struct listed *)base;

    *list->closed = true;
    free(list);
}

static struct raw_source *list_of(const struct raw_access *accesses,
                                  size_t count, int error, bool *closed)
{
    struct listed *list = calloc(1, sizeof *list);

    if (!list)
        abort();
    *list = (struct listed){
        {read_listed, close_listed}, accesses, accesses + count, error, closed};
    *closed = false;
    return &list->base;
}

static const struct raw_access good[] = {
    {.va = 0, .bytes = 1, .access = MMU_READ},
    {.va = 0x400ffc, .bytes = 8, .access = MMU_FETCH},
    {.va = 0x7fffffffeff8, .bytes = 8, .access = MMU_WRITE},
    {.va = 0x400ffc, .bytes = 8, .access = MMU_WRITE},
    {.va = 0x1234, .bytes = 0, .access = MMU_READ},
    {.va = 0x500001, .bytes = 8192, .access = MMU_READ},
};

static void bare_accesses_on(uint64_t page_bytes, uint64_t faults)
{
    struct event_source *source;
    struct checker *c;
    struct why why = {""};
    bool closed;

    CU_ASSERT_EQUAL_FATAL(model_open_raw(&source, list_of(good, 6, 0, &closed),
                                         page_bytes, NULL, &why),
                          0);
    c = checker_create(source);
    follow(c, source, &why);
    CU_ASSERT_STRING_EQUAL(c->wrong, "");
    CU_ASSERT(closed);
    CU_ASSERT_EQUAL(c->kinds[EVENT_READ], 1 + 1 + 3);
    CU_ASSERT_EQUAL(c->kinds[EVENT_WRITE], 1 + 2);
    CU_ASSERT_EQUAL(c->kinds[EVENT_FETCH], 2);
    CU_ASSERT_EQUAL(c->kinds[EVENT_FAULT], faults);
    CU_ASSERT_EQUAL(c->phases[0].operations, 6);
    checker_free(c);
}

static void bare_accesses(void)
{
    bare_accesses_on(PAGE_4K, 8); /* 0, 400, 401, 7ff.., 1, 500, 501, 502 */
    bare_accesses_on(PAGE_2M, 3); /* 0, 400, 7ff.. */
    bare_accesses_on(PAGE_1G, 2);
}

/* The lower half is 2^56 bytes with 5 levels. */
static void bare_accesses_5_levels(void)
{
    static const struct raw_access high[] = {
        {.va = (1ull << 56) - 8, .bytes = 8, .access = MMU_WRITE},
        {.va = 1ull << 47, .bytes = 8, .access = MMU_READ},
    };
    const struct model_guest guest = {.levels = 5, .ram_bytes = 1 << 30};
    struct event_source *source;
    struct checker *c;
    struct why why = {""};
    bool closed;

    CU_ASSERT_EQUAL_FATAL(model_open_raw(&source, list_of(high, 2, 0, &closed),
                                         PAGE_2M, &guest, &why),
                          0);
    c = checker_create(source);
    follow(c, source, &why);
    CU_ASSERT_STRING_EQUAL(c->wrong, "");
    CU_ASSERT_EQUAL(c->lowest, 1ull << 47);
    CU_ASSERT_EQUAL(c->highest, (1ull << 56) - 8);
    CU_ASSERT_EQUAL(c->guest.ram_bytes, 1 << 30);
    checker_free(c);
}

static void expect_bad(const struct raw_access *accesses, size_t count,
                       int error, const char *sentence)
{
    struct event_source *source;
    uint64_t words[WORDS];
    struct why why = {""};
    bool closed;
    long result;

    CU_ASSERT_EQUAL_FATAL(
        model_open_raw(&source, list_of(accesses, count, error, &closed),
                       PAGE_4K, NULL, &why),
        0);
    while ((result = source->read(source, words, WORDS, &why)) > 0)
        ;
    CU_ASSERT_EQUAL(result, -EINVAL);
    CU_ASSERT(strstr(why.text, sentence) != NULL);
    why.text[0] = 0;
    CU_ASSERT_EQUAL(source->read(source, words, WORDS, &why), -EINVAL);
    CU_ASSERT(strstr(why.text, sentence) != NULL);
    source->close(source);
}

static void bad_bare_accesses(void)
{
    const struct raw_access high = {.va = 1ull << 47, .bytes = 1};
    const struct raw_access over = {.va = (1ull << 47) - 4, .bytes = 8};
    const struct raw_access wraps = {.va = UINT64_MAX - 1, .bytes = 8};
    const struct raw_access kind = {.va = 1, .bytes = 1, .access = 3};

    expect_bad(&high, 1, 0, "user addresses are below");
    expect_bad(&over, 1, 0, "user addresses are below");
    expect_bad(&wraps, 1, 0, "user addresses are below");
    expect_bad(&kind, 1, 0, "there is none");
    expect_bad(good, 6, EINVAL, "trace.x:17: bad record");
}

/* ---- What cannot be, and what goes wrong ----------------------------------
 */

static void refuses(const char *name, struct wl_params params,
                    struct model_guest guest, int error, const char *sentence)
{
    struct event_source *source;
    struct why why = {""};

    CU_ASSERT_EQUAL(model_open(&source, name, &params, &guest, &why), error);
    CU_ASSERT(strstr(why.text, sentence) != NULL);
}

static void refusals(void)
{
    const struct wl_params none = {.operations = 0};
    const struct wl_params two = {.vcpus = 2};
    const struct wl_params odd = {.page_bytes = 8192};
    const struct wl_params huge = {.working_set_bytes = 1ull << 45};
    const struct model_guest guest = {.levels = 0};

    refuses("nonsense", none, guest, -EINVAL, "no workload 'nonsense'");
    refuses("pattern:nonsense", none, guest, -EINVAL, "no workload");
    refuses("pgfault", none, guest, -ENOTSUP, "not instrumented");
    refuses("gups", two, guest, -ENOTSUP, "one vCPU");
    refuses("gups", odd, guest, -EINVAL, "pages of 8K");
    refuses("pattern:uniform", odd, guest, -EINVAL, "pages of 8K");
    refuses("gups", huge, guest, -EINVAL, "32 TiB");
    refuses("gups", none, (struct model_guest){.levels = 3}, -EINVAL,
            "3 levels");
    refuses("gups", none, (struct model_guest){.ram_bytes = 1ull << 46},
            -EINVAL, "32 TiB");
}

static long read_all(struct event_source *source, struct why *why)
{
    uint64_t words[WORDS];
    long result;

    while ((result = source->read(source, words, WORDS, why)) > 0)
        ;
    return result;
}

/* A run that fails says the workload's sentence. */
static void failures(void)
{
    const struct wl_params large = {.working_set_bytes = 3ull << 30,
                                    .page_bytes = PAGE_2M};
    const struct wl_params forks = {
        .working_set_bytes = 600 << 20, .page_bytes = PAGE_2M, .operations = 1};
    const struct model_guest guest = {.ram_bytes = 1 << 30};
    struct event_source *source;
    struct why why = {""};

    CU_ASSERT_EQUAL_FATAL(model_open(&source, "protect", &large, &guest, &why),
                          0);
    CU_ASSERT_EQUAL(read_all(source, &why), -ECANCELED);
    CU_ASSERT(strstr(why.text, "not enough memory") != NULL);
    source->close(source);
    /* in the child process, while the parent waits */
    CU_ASSERT_EQUAL_FATAL(model_open(&source, "forkwait", &forks, &guest, &why),
                          0);
    CU_ASSERT_EQUAL(read_all(source, &why), -ENOMEM);
    CU_ASSERT(strstr(why.text, "out of guest memory") != NULL);
    source->close(source);
}

static pid_t child_of(pid_t parent)
{
    char path[64];
    FILE *file;
    int child = 0;

    snprintf(path, sizeof path, "/proc/%d/task/%d/children", parent, parent);
    file = fopen(path, "re");
    if (!file)
        return 0;
    if (fscanf(file, "%d", &child) != 1)
        child = 0;
    fclose(file);
    return child;
}

static bool alive(pid_t pid)
{
    return !kill(pid, 0);
}

static void open_and_start(struct event_source **source, const char *name)
{
    const struct wl_params p = {.operations = 1 << 30};
    uint64_t words[WORDS];
    struct why why;

    CU_ASSERT_EQUAL_FATAL(model_open(source, name, &p, NULL, &why), 0);
    for (unsigned i = 0; i < 100; i++)
        CU_ASSERT((*source)->read(*source, words, WORDS, &why) > 0);
}

/* Closed in the middle, with a forked process waiting or running. */
static void closing_early(void)
{
    static const char *const names[] = {"gups", "ctxsw", "forkwait",
                                        "pattern:cyclic"};

    sigset_t term, before;

    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    for (unsigned i = 0; i < 4; i++) {
        struct event_source *source;
        pid_t producer, process;

        /* whatever the opener blocks */
        sigprocmask(i & 1 ? SIG_BLOCK : SIG_UNBLOCK, &term, &before);
        open_and_start(&source, names[i]);
        sigprocmask(SIG_SETMASK, &before, NULL);
        producer = child_of(getpid());
        process = producer ? child_of(producer) : 0;
        CU_ASSERT(producer > 0);
        CU_ASSERT(i != 1 || process > 0);
        source->close(source);
        CU_ASSERT_EQUAL(child_of(getpid()), 0);
        CU_ASSERT(!producer || !alive(producer));
        CU_ASSERT(!process || !alive(process));
    }
}

static void dying(void)
{
    struct event_source *source;
    struct why why = {""};

    open_and_start(&source, "gups");
    kill(child_of(getpid()), SIGSEGV);
    CU_ASSERT_EQUAL(read_all(source, &why), -ECANCELED);
    CU_ASSERT_STRING_EQUAL(why.text,
                           "gups, instrumented, died of: Segmentation fault");
    source->close(source);

    open_and_start(&source, "ctxsw");
    kill(child_of(child_of(getpid())), SIGKILL);
    CU_ASSERT_EQUAL(read_all(source, &why), -ECANCELED);
    CU_ASSERT_STRING_EQUAL(why.text, "a process of the workload died");
    source->close(source);
    CU_ASSERT_EQUAL(child_of(getpid()), 0);
}

/* A process that has a source open is killed: the source's own processes go
 * with it. They become children of this one, so that it sees it. */
static void orphans(void)
{
    struct event_source *source;
    pid_t owner, producer, process;

    prctl(PR_SET_CHILD_SUBREAPER, 1);
    owner = fork();
    if (!owner) {
        open_and_start(&source, "ctxsw");
        for (;;)
            pause();
    }
    while (!(producer = child_of(owner)) || !(process = child_of(producer)))
        usleep(1000);
    kill(owner, SIGKILL);
    CU_ASSERT_EQUAL(waitpid(owner, NULL, 0), owner);
    CU_ASSERT_EQUAL(waitpid(producer, NULL, 0), producer);
    CU_ASSERT(!alive(process));
    prctl(PR_SET_CHILD_SUBREAPER, 0);
}

/* Two streams of the same run are the same, word for word, also when both are
 * open at once. */
static void repeatable(void)
{
    const struct wl_params p = {.operations = 100, .seed = 9};
    static const char *const names[] = {"ctxsw", "segv", "bfs"};

    for (unsigned i = 0; i < 3; i++) {
        struct event_source *source[2];
        uint64_t words[2][WORDS];
        struct why why;
        long count[2] = {1, 1};

        for (unsigned s = 0; s < 2; s++)
            CU_ASSERT_EQUAL_FATAL(
                model_open(&source[s], names[i], &p, NULL, &why), 0);
        for (unsigned round = 0; round < 200 && count[0] > 0; round++) {
            for (unsigned s = 0; s < 2; s++)
                count[s] = source[s]->read(source[s], words[s], WORDS, &why);
            CU_ASSERT_EQUAL_FATAL(count[0], count[1]);
            CU_ASSERT(count[0] <= 0 ||
                      !memcmp(words[0], words[1], (size_t)count[0] * 8));
        }
        source[0]->close(source[0]);
        source[1]->close(source[1]);
    }
}

TEST_SUITE(instrument, {"checksums of processes", checksums_of_processes},
           {"faults of the real guest", faults_of_the_guest},
           {"tables allow accesses: 4K", tables_allow_4k},
           {"tables allow accesses: 4K, PCIDs", tables_allow_4k_pcid},
           {"tables allow accesses: 4K, 5 levels", tables_allow_4k_5_levels},
           {"tables allow accesses: 2M", tables_allow_2m},
           {"tables allow accesses: 1G", tables_allow_1g},
           {"all accesses, and no other", accesses_are_all},
           {"forks copy on write", forks_copy_on_write},
           {"switches keep translations", switches_keep_translations},
           {"patterns count", patterns_count},
           {"patterns are large", patterns_are_large},
           {"bare accesses", bare_accesses},
           {"bare accesses, 5 levels", bare_accesses_5_levels},
           {"bad bare accesses", bad_bare_accesses}, {"refusals", refusals},
           {"failures", failures}, {"closing early", closing_early},
           {"dying", dying}, {"orphans", orphans}, {"repeatable", repeatable});
