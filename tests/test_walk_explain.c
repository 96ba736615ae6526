/*
 * The explained walk: what it reads against closed forms, every entry against
 * the one that led to it, every ending, and the JSON read back.
 */
#include "harness/profile.h"
#include "harness/walk_ask.h"
#include "harness/walk_decode.h"
#include "harness/walk_print.h"
#include "tests/test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define VA 0x7f1234567abcull

static const uint64_t pages[] = {PAGE_4K, PAGE_2M, PAGE_1G};

static struct walk_answer *explain(const struct walk_question *q)
{
    struct walk_answer *answer = malloc(sizeof *answer);
    struct why why = {""};

    CU_ASSERT_PTR_NOT_NULL_FATAL(answer);
    CU_ASSERT_EQUAL(walk_explain(q, answer, &why), 0);
    if (why.text[0])
        printf("\n  %s\n", why.text);
    return answer;
}

static struct walk_question ask(enum walk_technique technique)
{
    struct walk_question q;

    walk_question_default(&q, VA);
    q.technique = technique;
    return q;
}

static const struct walk_pass *last(const struct walk_answer *answer)
{
    CU_ASSERT_FATAL(answer->passes > 0);
    return &answer->pass[answer->passes - 1];
}

/* ---- References ---------------------------------------------------------- */

static void native_references(void)
{
    struct walk_question q = ask(WALK_NATIVE);

    for (q.guest.levels = 4; q.guest.levels <= 5; q.guest.levels++)
        for (unsigned page = 0; page < 3; page++) {
            struct walk_answer *answer;

            q.guest_page = pages[page];
            answer = explain(&q);
            CU_ASSERT_EQUAL(answer->passes, 1);
            CU_ASSERT_EQUAL(last(answer)->end, WALK_TRANSLATED);
            CU_ASSERT_EQUAL(last(answer)->rows, q.guest.levels - page);
            CU_ASSERT_EQUAL(last(answer)->guest_page, pages[page]);
            CU_ASSERT_EQUAL(last(answer)->pa % pages[page], VA % pages[page]);
            free(answer);
        }
}

/* (n + 1)(m + 1) - 1, of the levels that are left above large pages. */
static void nested_shape(struct walk_question *q, unsigned guest,
                         unsigned nested)
{
    unsigned n = q->guest.levels - guest, m = q->nested.levels - nested;
    struct walk_answer *answer;

    q->guest_page = pages[guest];
    q->host_page = pages[nested];
    answer = explain(q);
    CU_ASSERT_EQUAL(last(answer)->end, WALK_TRANSLATED);
    CU_ASSERT_EQUAL(last(answer)->rows, (n + 1) * (m + 1) - 1);
    CU_ASSERT_EQUAL(answer->replays, 1);
    CU_ASSERT_EQUAL(answer->replay[0].references, last(answer)->rows);
    CU_ASSERT_EQUAL(answer->replay[0].nested, (n + 1) * m);
    CU_ASSERT_EQUAL(last(answer)->gpa % pages[guest], VA % pages[guest]);
    CU_ASSERT_EQUAL(last(answer)->pa % pages[nested],
                    last(answer)->gpa % pages[nested]);
    free(answer);
}

static void nested_references(void)
{
    struct walk_question q = ask(WALK_NESTED);

    for (unsigned npt = 0; npt < 2; npt++)
        for (q.guest.levels = 4; q.guest.levels <= 5; q.guest.levels++)
            for (q.nested.levels = 4; q.nested.levels <= 5; q.nested.levels++)
                for (unsigned i = 0; i < 9; i++) {
                    q.nested.format = npt ? EPT_FORMAT_NPT : EPT_FORMAT_EPT;
                    nested_shape(&q, i / 3, i % 3);
                }
}

/* What real KVM showed under Bochs. */
static void published_references(void)
{
    static const struct {
        unsigned levels, guest, nested, references;
    } known[] = {{4, 0, 0, 24},
                 {5, 0, 0, 35},
                 {4, 1, 0, 19},
                 {4, 0, 1, 19},
                 {4, 1, 1, 15}};

    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        struct walk_question q = ask(WALK_NESTED);
        struct walk_answer *answer;

        q.guest.levels = q.nested.levels = known[i].levels;
        q.guest_page = pages[known[i].guest];
        q.host_page = pages[known[i].nested];
        answer = explain(&q);
        CU_ASSERT_EQUAL(last(answer)->rows, known[i].references);
        free(answer);
    }
}

/* ---- Each entry leads to the next ---------------------------------------- */

static uint64_t refers_to(const struct walk_row *row)
{
    uint64_t mask = row->level > 1 && row->level < 4 && (row->entry & PTE_PS)
                        ? (1ull << pt_shift(row->level)) - 1
                        : PAGE_4K - 1;

    return row->entry & PTE_ADDR & ~mask;
}

static void chain_native(void)
{
    struct walk_question q = ask(WALK_NATIVE);
    struct walk_answer *answer = explain(&q);
    const struct walk_pass *pass = last(answer);
    uint64_t table = answer->root;

    for (unsigned i = 0; i < pass->rows; i++) {
        CU_ASSERT_EQUAL(pass->row[i].index, pt_index(VA, 4 - i));
        CU_ASSERT_EQUAL(pass->row[i].pa, table + 8 * pass->row[i].index);
        table = refers_to(&pass->row[i]);
    }
    CU_ASSERT_EQUAL(pass->pa, table + VA % PAGE_4K);
    free(answer);
}

/* Follows a 2-D walk by its rows alone. */
static void chain_nested(void)
{
    struct walk_question q = ask(WALK_NESTED);
    struct walk_answer *answer = explain(&q);
    const struct walk_pass *pass = last(answer);
    uint64_t gpa = answer->root + 8ull * pt_index(VA, 4);
    uint64_t at = answer->nested_root, host = 0;

    for (unsigned i = 0; i < pass->rows; i++) {
        const struct walk_row *row = &pass->row[i];

        CU_ASSERT_EQUAL(row->gpa, gpa);
        CU_ASSERT_EQUAL(
            row->index,
            pt_index(row->tables == WALK_NESTED_TABLES ? gpa : VA, row->level));
        if (row->tables == WALK_NESTED_TABLES) {
            CU_ASSERT_EQUAL(row->pa, at + 8ull * pt_index(gpa, row->level));
            at = refers_to(row);
            host = at + gpa % PAGE_4K;
        } else {
            CU_ASSERT_EQUAL(row->pa, host);
            gpa = refers_to(row) + (row->level > 1
                                        ? 8ull * pt_index(VA, row->level - 1)
                                        : VA % PAGE_4K);
            at = answer->nested_root;
        }
    }
    CU_ASSERT_EQUAL(pass->gpa, gpa);
    CU_ASSERT_EQUAL(pass->pa, host);
    free(answer);
}

static void flags_set(void)
{
    struct walk_question q = ask(WALK_NATIVE);
    struct walk_answer *answer;

    q.request.access = MMU_WRITE;
    answer = explain(&q);
    for (unsigned i = 0; i < 4; i++)
        CU_ASSERT_EQUAL(last(answer)->row[i].sets,
                        i == 3 ? PTE_A | PTE_D : PTE_A);
    free(answer);
    /* EPT: the flags of a table's page are dirty at once, of the page read
     * not; an entry met again has its flag already. */
    q = ask(WALK_NESTED);
    answer = explain(&q);
    CU_ASSERT_EQUAL(last(answer)->row[0].sets, EPT_A);
    CU_ASSERT_EQUAL(last(answer)->row[3].sets, EPT_A | EPT_D);
    CU_ASSERT_EQUAL(last(answer)->row[4].sets, PTE_A);
    CU_ASSERT_EQUAL(last(answer)->row[5].sets, 0);
    CU_ASSERT(last(answer)->row[5].entry & EPT_A);
    CU_ASSERT_EQUAL(last(answer)->row[23].sets, EPT_A);
    free(answer);
}

/* ---- Caches -------------------------------------------------------------- */

static unsigned with(const struct walk_answer *answer, const char *caches)
{
    for (unsigned i = 0; i < answer->replays; i++)
        if (!strcmp(answer->replay[i].caches, caches))
            return answer->replay[i].references;
    CU_FAIL("no such caches");
    printf("\n  no '%s'\n", caches);
    return 0;
}

static const struct mmu_profile *profile(const char *name)
{
    static struct mmu_profile loaded;
    struct why why;

    CU_ASSERT_EQUAL_FATAL(profile_load(name, &loaded, &why), 0);
    return &loaded;
}

/* With the entry of one level cached, the walk begins one level below: there
 * are fewer of the guest's entries, or shorter walks of the host's. */
static void caches_save(void)
{
    struct walk_question q = ask(WALK_NESTED);
    struct walk_answer *answer;

    q.profile = profile("skylake-sp");
    answer = explain(&q);
    CU_ASSERT_EQUAL(with(answer, "no caches"), 24);
    for (unsigned level = 2; level <= 4; level++) {
        static const char *const names[] = {"PDE", "PDPTE", "PML4E"};
        const unsigned left = level - 1;
        char name[32];

        snprintf(name, sizeof name, "%s cache", names[level - 2]);
        CU_ASSERT_EQUAL(with(answer, name), left + left * 4);
        snprintf(name, sizeof name, "EPT %s cache", names[level - 2]);
        CU_ASSERT_EQUAL(with(answer, name), 4 + 5 * left);
    }
    CU_ASSERT_EQUAL(with(answer, "paging-structure caches of both dimensions"),
                    2);
    CU_ASSERT_EQUAL(with(answer, "TLB"), 0);
    /* On the way: 4 + 1 + 1 + 1 nested of the tables' (one 1-GiB region),
     * 2 levels for each table of its own 2 MiB, 3 for the page's. */
    CU_ASSERT_EQUAL(with(answer, "every cache, all empty at the start"),
                    4 + 3 * 2 + 3 + 4);
    free(answer);
}

static void caches_save_npt(void)
{
    struct walk_question q = ask(WALK_NESTED);
    struct walk_answer *answer;

    q.nested.format = EPT_FORMAT_NPT;
    q.profile = profile("zen3");
    answer = explain(&q);
    CU_ASSERT_EQUAL(with(answer, "page-walk cache"), 5);
    CU_ASSERT_EQUAL(with(answer, "NPT page-walk cache"), 9);
    CU_ASSERT_EQUAL(with(answer, "nested TLB"), 4);
    CU_ASSERT_EQUAL(with(answer, "these and the nested TLB"), 1);
    CU_ASSERT_EQUAL(with(answer, "TLB"), 0);
    free(answer);
}

static void caches_save_in_one_dimension(void)
{
    struct walk_question q = ask(WALK_NATIVE);
    struct walk_answer *answer;

    q.profile = profile("skylake-sp");
    q.guest.levels = 5;
    answer = explain(&q);
    CU_ASSERT_EQUAL(with(answer, "PML4E cache"), 3);
    CU_ASSERT_EQUAL(with(answer, "PDE cache"), 1);
    CU_ASSERT_EQUAL(with(answer, "TLB"), 0);
    free(answer);
}

/* ---- Shadow -------------------------------------------------------------- */

static void shadow_walks(void)
{
    struct walk_question q = ask(WALK_SHADOW);
    struct walk_answer *answer = explain(&q);
    const struct walk_pass *pass = answer->pass;

    CU_ASSERT_EQUAL_FATAL(answer->passes, 3);
    CU_ASSERT_EQUAL(pass[0].end, WALK_PAGE_FAULT);
    CU_ASSERT_EQUAL(pass[0].rows, 1);
    CU_ASSERT_EQUAL(pass[0].row[0].entry, 0);
    CU_ASSERT_EQUAL(pass[1].by, WALK_BY_SHADOW_MMU);
    CU_ASSERT_EQUAL(pass[1].end, WALK_HIDDEN_FAULT);
    CU_ASSERT_EQUAL(pass[1].rows, 4);
    CU_ASSERT_EQUAL(pass[1].row[3].sets, PTE_A);
    CU_ASSERT_EQUAL(pass[2].end, WALK_TRANSLATED);
    CU_ASSERT_EQUAL(pass[2].rows, 4);
    /* The guest's leaf names another frame than the shadow's. */
    CU_ASSERT_EQUAL(refers_to(&pass[1].row[3]) + VA % PAGE_4K, pass[1].gpa);
    CU_ASSERT_EQUAL(refers_to(&pass[2].row[3]) + VA % PAGE_4K, pass[2].pa);
    CU_ASSERT_NOT_EQUAL(pass[1].gpa, pass[2].pa);
    free(answer);
}

/* A large guest page is large in the shadow only where the host's is. */
static void shadow_large(void)
{
    struct walk_question q = ask(WALK_SHADOW);
    struct walk_answer *answer;

    q.guest_page = PAGE_2M;
    answer = explain(&q);
    CU_ASSERT_EQUAL(last(answer)->rows, 4);
    free(answer);
    q.host_page = PAGE_2M;
    answer = explain(&q);
    CU_ASSERT_EQUAL(last(answer)->rows, 3);
    free(answer);
}

/* ---- Endings ------------------------------------------------------------- */

struct ending {
    const char *name;
    enum walk_technique technique;
    enum walk_end end;
    unsigned references; /* of the last walk */
    uint64_t code;       /* error code, qualification or EXITINFO1 */
    const char *said;
};

static uint64_t code_of(const struct walk_pass *pass)
{
    switch (pass->end) {
    case WALK_VIOLATION:
        return pass->qualification;
    case WALK_NESTED_FAULT:
        return pass->exit_info1;
    default:
        return pass->error;
    }
}

static void ends_so(const struct ending *ending, enum ept_format format)
{
    struct walk_question q = ask(ending->technique);
    struct walk_answer *answer;
    struct why why = {""};
    char text[640];

    q.nested.format = format;
    CU_ASSERT_EQUAL(walk_ask_end(ending->name, &q, &why), 0);
    answer = explain(&q);
    walk_decode_end(&q, last(answer), text, sizeof text);
    CU_ASSERT_EQUAL(last(answer)->end, ending->end);
    CU_ASSERT_EQUAL(last(answer)->rows, ending->references);
    CU_ASSERT_EQUAL(code_of(last(answer)), ending->code);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, ending->said));
    CU_ASSERT_EQUAL(answer->replays, 0);
    if (!strstr(text, ending->said) || code_of(last(answer)) != ending->code)
        printf("\n  %s: %s (%#llx, %u)\n", ending->name, text,
               (unsigned long long)code_of(last(answer)), last(answer)->rows);
    free(answer);
}

static void endings(void)
{
    static const struct ending all[] = {
        {"not-present", WALK_NATIVE, WALK_PAGE_FAULT, 4, PF_U,
         "PTE is not present"},
        {"not-present@pdpte", WALK_NATIVE, WALK_PAGE_FAULT, 2, PF_U,
         "PDPTE is not present"},
        {"read-only", WALK_NATIVE, WALK_PAGE_FAULT, 4, PF_P | PF_W | PF_U,
         "PTE has R/W clear"},
        {"read-only@pml4e", WALK_NATIVE, WALK_PAGE_FAULT, 4, PF_P | PF_W | PF_U,
         "PML4E has R/W clear"},
        {"supervisor@pde", WALK_NATIVE, WALK_PAGE_FAULT, 4, PF_P | PF_U,
         "PDE has U/S clear"},
        {"no-execute", WALK_NATIVE, WALK_PAGE_FAULT, 4, PF_P | PF_U | PF_I,
         "PTE has XD set"},
        {"reserved@pml4e", WALK_NATIVE, WALK_PAGE_FAULT, 1, PF_P | PF_U | PF_RS,
         "PML4E has a reserved bit"},
        {"protection-key", WALK_NATIVE, WALK_PAGE_FAULT, 4, PF_P | PF_U | PF_PK,
         "protection key"},
        {"non-canonical", WALK_NATIVE, WALK_NOT_CANONICAL, 0, 0, "63:47"},
        {"not-present", WALK_NESTED, WALK_PAGE_FAULT, 20, PF_U,
         "guest's own #PF"},
        {"non-canonical", WALK_NESTED, WALK_NOT_CANONICAL, 0, 0, "63:47"},
        {"violation", WALK_NESTED, WALK_VIOLATION, 24,
         EPTQ_READ | EPTQ_GLA_VALID | EPTQ_TRANSLATED,
         "EPT PTE is not present"},
        {"violation@pde/ept-pte", WALK_NESTED, WALK_VIOLATION, 14,
         EPTQ_READ | EPTQ_WRITE | EPTQ_GLA_VALID, "EPT PTE is not present"},
        {"violation@pml4e/ept-pml4e", WALK_NESTED, WALK_VIOLATION, 1,
         EPTQ_READ | EPTQ_WRITE | EPTQ_GLA_VALID, "EPT PML4E is not present"},
        {"write-violation", WALK_NESTED, WALK_VIOLATION, 24,
         EPTQ_WRITE | EPTQ_READABLE | EPTQ_EXECUTABLE | EPTQ_GLA_VALID |
             EPTQ_TRANSLATED,
         "EPT PTE allows no writes"},
        {"misconfiguration", WALK_NESTED, WALK_MISCONFIGURATION, 24, 0,
         "allows writes but no reads"},
        {"misconfiguration@pte/ept-pde", WALK_NESTED, WALK_MISCONFIGURATION, 18,
         0, "EPT PDE allows writes"},
        {"log-full", WALK_NESTED, WALK_PML_FULL, 4, 0, "exit reason 62"},
        {"not-present", WALK_SHADOW, WALK_TRUE_FAULT, 4, PF_U,
         "true page fault"},
        {"read-only", WALK_SHADOW, WALK_TRUE_FAULT, 4, PF_P | PF_W | PF_U,
         "PTE has R/W clear"},
        {"non-canonical", WALK_SHADOW, WALK_NOT_CANONICAL, 0, 0, "63:47"},
    };
    static const struct ending npt[] = {
        {"violation", WALK_NESTED, WALK_NESTED_FAULT, 24, PF_U | NPF_FINAL,
         "NPT PTE is not present"},
        {"violation@pde/npt-pte", WALK_NESTED, WALK_NESTED_FAULT, 14,
         PF_U | PF_W | NPF_TABLE, "NPT PTE is not present"},
        {"write-violation", WALK_NESTED, WALK_NESTED_FAULT, 24,
         PF_P | PF_W | PF_U | NPF_FINAL, "NPT PTE has R/W clear"},
        {"reserved@npt-pde", WALK_NESTED, WALK_NESTED_FAULT, 23,
         PF_P | PF_U | PF_RS | NPF_FINAL, "NPT PDE has a reserved bit"},
    };

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        ends_so(&all[i], EPT_FORMAT_EPT);
    for (size_t i = 0; i < sizeof npt / sizeof npt[0]; i++)
        ends_so(&npt[i], EPT_FORMAT_NPT);
}

/* An address whose bit above is set already must not become canonical. */
static void non_canonical_stays_so(void)
{
    static const uint64_t addresses[] = {0, ~0ull, 1ull << 48, 1ull << 47,
                                         0xffff800000000000};

    for (size_t i = 0; i < sizeof addresses / sizeof addresses[0]; i++) {
        struct walk_question q;
        struct walk_answer *answer;

        walk_question_default(&q, addresses[i]);
        CU_ASSERT_EQUAL(walk_ask_end("non-canonical", &q, NULL), 0);
        answer = explain(&q);
        CU_ASSERT_EQUAL(last(answer)->end, WALK_NOT_CANONICAL);
        free(answer);
    }
}

/* Tables that lead into themselves, out of memory, into each other: answers,
 * whatever they are. */
static void hostile_entries(void)
{
    static const char *const guests[] = {"pml4e:=0xe6f4007",
                                         "pde:=0x1f059007",
                                         "pte:=0xffffffffffffffff",
                                         "pdpte:=0xfffffffff007",
                                         "pte:=0x7fffffffff007",
                                         "pml4e:+ps",
                                         "pdpte:+ps",
                                         "pde:=0x100000007"};
    static const char *const nested[] = {
        "ept-pml4e:=0x100000007",  "ept-pte:=0xffffffffffffffff",
        "pde/ept-pde:+ps+type6",   "pml4e/ept-pml4e:=0x0",
        "ept-pde:=0xfffffffff007", "ept-pte:+type7"};

    for (unsigned technique = WALK_NATIVE; technique <= WALK_SHADOW;
         technique++)
        for (unsigned i = 0; i < 14; i++) {
            struct walk_question q = ask((enum walk_technique)technique);
            struct walk_answer *answer;
            struct why why;
            char text[640];
            json_t *json;

            if ((i >= 8 && technique != WALK_NESTED) ||
                walk_ask_entry(i < 8 ? guests[i] : nested[i - 8], &q, &why))
                continue;
            q.profile = profile("skylake-sp");
            answer = explain(&q);
            walk_decode_end(&q, last(answer), text, sizeof text);
            json = walk_print_json(&q, answer);
            CU_ASSERT_PTR_NOT_NULL(json);
            json_decref(json);
            free(answer);
        }
}

/* Entries that lead to tables at random, with flags at random: always an
 * answer, and what was translated can be translated again. */
static void random_entries(void)
{
    static const uint64_t tables[] = {0x27cc6000, 0x1f059000,  0x13b82000,
                                      0x0e6f4000, 0x100000000, 0x100002000,
                                      0x5c3de000, 0x28d6a5000};
    unsigned state = 1, translated = 0;

    for (unsigned i = 0; i < 3000; i++) {
        struct walk_question q = ask((enum walk_technique)(i % 3));
        struct walk_answer *answer;

        q.profile = profile("zen3");
        q.nested.format = i & 8 ? EPT_FORMAT_NPT : EPT_FORMAT_EPT;
        q.request.access = (enum mmu_access)(rand_r(&state) % 3);
        for (q.changes = 0; q.changes < 1 + i / 1000; q.changes++) {
            struct walk_change *change = &q.change[q.changes];

            *change = (struct walk_change){
                .nested = i % 3 == WALK_NESTED && rand_r(&state) & 1,
                .level = 1 + i % 2 + q.changes,
                .whole = true,
                .set = tables[rand_r(&state) % 8] | PTE_RW | PTE_US | PTE_P |
                       ((unsigned)rand_r(&state) & (unsigned)rand_r(&state) &
                        0xfff),
            };
            change->guest_level = change->nested ? rand_r(&state) % 5 : 0;
        }
        answer = explain(&q);
        translated += last(answer)->end == WALK_TRANSLATED;
        free(answer);
    }
    CU_ASSERT(translated > 100);
}

/* ---- Questions without meaning ------------------------------------------- */

static void refuses(struct walk_question *q, const char *entry,
                    const char *said)
{
    struct walk_answer answer;
    struct why why = {""};
    int err = walk_ask_entry(entry, q, &why);

    if (!err)
        err = walk_explain(q, &answer, &why);
    CU_ASSERT_EQUAL(err, -EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, said));
    if (!strstr(why.text, said))
        printf("\n  %s: %s\n", entry, why.text);
    q->changes = 0;
}

static void refusals(void)
{
    struct walk_question q = ask(WALK_NATIVE);

    refuses(&q, "", "is no entry");
    refuses(&q, "pte", "write what changes");
    refuses(&q, "pte:", "write what changes");
    refuses(&q, "pte:+", "no flag");
    refuses(&q, "pte:+bit64", "no flag");
    refuses(&q, "pte:+r", "no flag");
    refuses(&q, "pte:+p,rw", "after a comma");
    refuses(&q, "pte:=", "not a number");
    refuses(&q, "pte:=-1", "not a number");
    refuses(&q, "pte:=0x11111111111111111", "does not fit");
    refuses(&q, "pgd:-p", "is no entry");
    refuses(&q, "pde/pte:-p", "is no entry");
    refuses(&q, "pml5e:-p", "reads no PML5E");
    refuses(&q, "ept-pte:-r", "only nested paging");
    refuses(&q, "npt-pte:-p", "is EPT here");
    q.technique = WALK_NESTED;
    refuses(&q, "ept-pte:+p", "no flag");
    refuses(&q, "pml5e/ept-pte:-r", "reads no PML5E");
    q.guest_page = PAGE_2M;
    refuses(&q, "pte:-p", "reads no PTE");
    refuses(&q, "pte/ept-pte:-r", "reads no PTE");
    q.guest_page = PAGE_4K;
    q.host_page = 8192;
    refuses(&q, "pte:-p", "4K, 2M or 1G");
    q.host_page = PAGE_4K;
    q.nested.levels = 3;
    refuses(&q, "pte:-p", "4 or 5 levels");
    q.nested.levels = 4;
    q.host_rights = EPT_W;
    refuses(&q, "pte:-p", "second dimension");
}

/* ---- Output -------------------------------------------------------------- */

static json_t *read_back(const struct walk_question *q,
                         const struct walk_answer *answer)
{
    json_t *made = walk_print_json(q, answer), *read;
    char *text = json_dumps(made, 0);

    CU_ASSERT_PTR_NOT_NULL_FATAL(text);
    read = json_loads(text, 0, NULL);
    CU_ASSERT_PTR_NOT_NULL_FATAL(read);
    free(text);
    json_decref(made);
    return read;
}

static uint64_t hex(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    CU_ASSERT_PTR_NOT_NULL_FATAL(text);
    return strtoull(text, NULL, 16);
}

static void json_reads_back(void)
{
    struct walk_question q = ask(WALK_NESTED);
    struct walk_answer *answer;
    const struct walk_pass *pass;
    json_t *json, *rows, *end;

    q.profile = profile("skylake-sp");
    answer = explain(&q);
    pass = last(answer);
    json = read_back(&q, answer);
    rows = json_object_get(json_array_get(json_object_get(json, "walks"), 0),
                           "references");
    CU_ASSERT_EQUAL(json_array_size(rows), 24);
    for (unsigned i = 0; i < 24; i++) {
        const json_t *row = json_array_get(rows, i);

        CU_ASSERT_EQUAL(hex(row, "value"), pass->row[i].entry);
        CU_ASSERT_EQUAL(hex(row, "physical_address"), pass->row[i].pa);
        CU_ASSERT_EQUAL(hex(row, "guest_physical_address"), pass->row[i].gpa);
        CU_ASSERT_EQUAL(hex(row, "refers_to"), refers_to(&pass->row[i]));
    }
    end = json_object_get(json_array_get(json_object_get(json, "walks"), 0),
                          "end");
    CU_ASSERT_EQUAL(hex(end, "physical_address"), pass->pa);
    CU_ASSERT_EQUAL(json_array_size(json_object_get(json, "again")),
                    answer->replays);
    CU_ASSERT_EQUAL(json_array_size(json_object_get(json, "indices")), 4);
    json_decref(json);
    free(answer);
}

static void summary_says(void)
{
    struct walk_question q = ask(WALK_NESTED);
    struct walk_answer *answer;
    char text[640];

    q.profile = profile("skylake-sp");
    answer = explain(&q);
    walk_summary(&q, answer, text, sizeof text);
    CU_ASSERT_PTR_EQUAL(strstr(text, "24 references cold"), text);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "; 0 with a warm TLB"));
    free(answer);
}

/* Tables an operating system would make fit 100 columns. */
static void text_fits(void)
{
    for (unsigned i = 0; i < 12; i++) {
        struct walk_question q = ask((enum walk_technique)(i % 3));
        struct walk_answer *answer;
        char *text = NULL, *rest, *line;
        size_t bytes;
        FILE *file = open_memstream(&text, &bytes);

        q.request.access = i & 4 ? MMU_WRITE : MMU_READ;
        q.guest.levels = q.nested.levels = i < 6 ? 4 : 5;
        q.request.va = i < 6 ? VA : 0xff12345678912345;
        q.profile = profile("skylake-sp");
        answer = explain(&q);
        walk_print_text(file, &q, answer);
        fclose(file);
        for (line = strtok_r(text, "\n", &rest); line;
             line = strtok_r(NULL, "\n", &rest)) {
            CU_ASSERT(strlen(line) <= 100);
            if (strlen(line) > 100)
                printf("\n  %s\n", line);
        }
        free(text);
        free(answer);
    }
}

static bool has_flag(const struct walk_entry *entry, const char *name)
{
    for (unsigned i = 0; i < entry->flags; i++)
        if (!strcmp(entry->flag[i].name, name))
            return true;
    return false;
}

static void entries_decode(void)
{
    const struct walk_question q = ask(WALK_NESTED);
    struct walk_row row = {.tables = WALK_GUEST_TABLES, .level = 2};
    struct walk_entry e;

    row.entry = 0x40000000 | PTE_P | PTE_PS | PTE_PAT_LARGE | PTE_XD |
                3ull << PTE_KEY_SHIFT;
    walk_decode_entry(&q, &row, &e);
    CU_ASSERT(e.present && e.leaf && !e.reserved);
    CU_ASSERT_EQUAL(e.target, 0x40000000);
    CU_ASSERT_EQUAL(e.page_bytes, PAGE_2M);
    CU_ASSERT(has_flag(&e, "PAT") && has_flag(&e, "XD") &&
              has_flag(&e, "PK=3") && !has_flag(&e, "R/W"));
    row.entry |= 1ull << 13;
    walk_decode_entry(&q, &row, &e);
    CU_ASSERT(e.reserved && has_flag(&e, "RSVD13") && !e.target);
    row.tables = WALK_NESTED_TABLES;
    row.entry = 0x1000 | EPT_RWX | EPT_IPAT; /* of a table: reserved */
    walk_decode_entry(&q, &row, &e);
    CU_ASSERT(e.present && !e.leaf && has_flag(&e, "RSVD6"));
    row.level = 1;
    row.entry = 0x1000 | EPT_R | EPT_TYPE(EPT_TYPE_WB) | EPT_IPAT | EPT_D;
    walk_decode_entry(&q, &row, &e);
    CU_ASSERT(e.leaf && !e.reserved && has_flag(&e, "WB") &&
              has_flag(&e, "IPAT") && has_flag(&e, "D"));
    row.entry = 0x1000 | EPT_TYPE(EPT_TYPE_WB);
    walk_decode_entry(&q, &row, &e);
    CU_ASSERT(!e.present && !e.flags);
}

TEST_SUITE(walk_explain, {"references, native", native_references},
           {"references, nested", nested_references},
           {"references as published", published_references},
           {"native entries lead to each other", chain_native},
           {"nested entries lead to each other", chain_nested},
           {"accessed and dirty flags", flags_set},
           {"caches, EPT", caches_save}, {"caches, NPT", caches_save_npt},
           {"caches, one dimension", caches_save_in_one_dimension},
           {"shadow", shadow_walks}, {"shadow, large pages", shadow_large},
           {"endings", endings},
           {"non-canonical stays so", non_canonical_stays_so},
           {"hostile entries", hostile_entries},
           {"random entries", random_entries}, {"refusals", refusals},
           {"JSON reads back", json_reads_back}, {"summary", summary_says},
           {"text fits", text_fits}, {"entries decoded", entries_decode});
