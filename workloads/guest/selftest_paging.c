/* The self-test: page tables as the kernel sees them (SDM vol. 3A, chapter
 * 4). The paging test (paging.h) has every combination of entries; here is
 * what a kernel relies on, with its own tables. */
#include "workloads/guest/selftest.h"

#define VECTOR_PF 14

#define MSR_EFER 0xc0000080
#define CR4_SMEP (1ull << 20)
#define CR4_SMAP (1ull << 21)
#define FLAG_AC  (1ull << 18)

#define TEST_VA    (NANO_BASE + 0x40000000ull)
#define ALIAS_VA   (TEST_VA + 0x5000)
#define LARGE_VA   (TEST_VA + PAGE_2M)
#define OPCODE_RET 0xc3
#define LEAF       (PTE_P | PTE_RW)
#define A_D        (PTE_A | PTE_D)

#define PROBE(name) uint64_t probe_##name(uint64_t arg)
PROBE(load);
PROBE(store);
PROBE(modify);
PROBE(fetch);

struct page {
    volatile uint64_t *pte, *pde;
    uint64_t pa;
};

static void set(volatile uint64_t *entry, uint64_t va, uint64_t value)
{
    *entry = value;
    invlpg(va);
}

static struct page make_page(struct selftest *t)
{
    struct kernel *k = selftest_cpu(t)->kernel;
    struct page page = {
        .pte = space_kernel_entry(k, TEST_VA, 1),
        .pde = space_kernel_entry(k, TEST_VA, 2),
        .pa = phys_alloc(k, 1),
    };

    *(uint8_t *)phys_to_virt(page.pa) = OPCODE_RET;
    return page;
}

/* ---- Accessed and dirty ------------------------------------------------ */

static void check_flags(struct selftest *t, const struct page *p,
                        const char *name, probe_function *probe,
                        uint64_t expected)
{
    set(p->pte, TEST_VA, p->pa | LEAF);
    *p->pde &= ~PTE_A;
    invlpg(TEST_VA);
    check_quiet(t, name, probe, TEST_VA);
    check(t, name, "A, D of the PTE", *p->pte & A_D, expected);
    check(t, name, "the rest of the PTE", (*p->pte & ~A_D) ^ (p->pa | LEAF), 0);
    check(t, name, "A of the PDE", *p->pde & PTE_A, PTE_A);
}

static void accessed_and_dirty(struct selftest *t, const struct page *p)
{
    check_flags(t, p, "load", probe_load, PTE_A);
    check_flags(t, p, "fetch", probe_fetch, PTE_A);
    check_flags(t, p, "locked increment", probe_modify, A_D);
    check_flags(t, p, "store", probe_store, A_D);
    check(t, "store", "what memory has", *(uint64_t *)phys_to_virt(p->pa),
          TEST_VA);
    *(uint8_t *)phys_to_virt(p->pa) = OPCODE_RET;
    set(p->pte, TEST_VA, p->pa | LEAF);
    probe_load(TEST_VA);
    probe_store(TEST_VA);
    check(t, "store after a load", "A, D", *p->pte & A_D, A_D);
}

/* ---- Faults ------------------------------------------------------------ */

static void check_page_fault(struct selftest *t, const char *name,
                             probe_function *probe, uint64_t va, unsigned error)
{
    struct caught c;
    /* A fault of a fetch is at its target. */
    uint64_t rip = probe == probe_fetch ? va : (uint64_t)probe;

    __asm__ volatile("movq %0, %%cr2" ::"r"(0ull));
    selftest_catch(t, &c, probe, va);
    check_trap(t, name, &c, VECTOR_PF, error, rip);
    check(t, name, "CR2 - expected", c.cr2 - va, 0);
}

static void absent_pages(struct selftest *t, const struct page *p)
{
    uint64_t pde = *p->pde;

    set(p->pte, TEST_VA, 0);
    check_page_fault(t, "load, no PTE", probe_load, TEST_VA + 0xff8, 0);
    check_page_fault(t, "store, no PTE", probe_store, TEST_VA + 0x123, PF_W);
    check_page_fault(t, "fetch, no PTE", probe_fetch, TEST_VA, PF_I);
    set(p->pte, TEST_VA, p->pa | LEAF);
    check_quiet(t, "load, PTE written", probe_load, TEST_VA);
    set(p->pde, TEST_VA, 0);
    check_page_fault(t, "load, no PDE", probe_load, TEST_VA, 0);
    set(p->pde, TEST_VA, pde);
    check_quiet(t, "load, PDE written", probe_load, TEST_VA);
    *p->pte = 0;
    invlpg(TEST_VA);
    check_page_fault(t, "load after INVLPG", probe_load, TEST_VA, 0);
    *p->pte = p->pa | LEAF; /* nothing to flush */
    check_quiet(t, "load of a page made present", probe_load, TEST_VA);
}

static void rights(struct selftest *t, const struct page *p)
{
    uint64_t cr0;

    set(p->pte, TEST_VA, p->pa | PTE_P);
    check_page_fault(t, "store, read-only", probe_store, TEST_VA, PF_P | PF_W);
    check(t, "store, read-only", "D", *p->pte & PTE_D, 0);
    check_quiet(t, "load, read-only", probe_load, TEST_VA);
    __asm__ volatile("movq %%cr0, %0" : "=r"(cr0));
    __asm__ volatile("movq %0, %%cr0" ::"r"(cr0 & ~CR0_WP) : "memory");
    check_quiet(t, "store, read-only, WP clear", probe_store, TEST_VA);
    __asm__ volatile("movq %0, %%cr0" ::"r"(cr0) : "memory");
    check(t, "store, read-only, WP clear", "A, D", *p->pte & A_D, A_D);
    check_page_fault(t, "store, read-only, WP set", probe_store, TEST_VA,
                     PF_P | PF_W);
    *(uint8_t *)phys_to_virt(p->pa) = OPCODE_RET;
    set(p->pte, TEST_VA, p->pa | LEAF | PTE_XD);
    check_page_fault(t, "fetch, XD", probe_fetch, TEST_VA, PF_P | PF_I);
    check_quiet(t, "load, XD", probe_load, TEST_VA);
    set(p->pte, TEST_VA, p->pa | LEAF);
    check_quiet(t, "fetch, XD cleared", probe_fetch, TEST_VA);
    *p->pde &= ~PTE_RW;
    invlpg(TEST_VA);
    check_page_fault(t, "store, read-only PDE", probe_store, TEST_VA,
                     PF_P | PF_W);
    *p->pde |= PTE_RW;
    invlpg(TEST_VA);
    check_quiet(t, "store, PDE writable", probe_store, TEST_VA);
    *(uint8_t *)phys_to_virt(p->pa) = OPCODE_RET;
}

/* Reserved bits: PS of a PML4E is one for every CPU. */
static void reserved(struct selftest *t)
{
    uint64_t *pml4e = space_kernel_entry(selftest_cpu(t)->kernel, TEST_VA, 4);
    uint64_t was = *pml4e;
    struct caught c;

    *(volatile uint64_t *)pml4e = was | PTE_PS;
    write_cr3(read_cr3());
    selftest_catch(t, &c, probe_load, TEST_VA);
    *(volatile uint64_t *)pml4e = was;
    write_cr3(read_cr3());
    check_trap_or(
        t, DEVIATION_TCG_RESERVED, "load, reserved bit", &c,
        (struct outcome){VECTOR_PF, PF_RS | PF_P, (uint64_t)probe_load},
        (struct outcome){VECTOR_PF, PF_RS, (uint64_t)probe_load});
}

/* ---- Mappings ---------------------------------------------------------- */

static void aliases(struct selftest *t, const struct page *p)
{
    struct kernel *k = selftest_cpu(t)->kernel;
    volatile uint64_t *alias = space_kernel_entry(k, ALIAS_VA, 1);
    volatile uint64_t *direct = phys_to_virt(p->pa);
    uint64_t other = phys_alloc(k, 1), first = *direct;

    set(alias, ALIAS_VA, p->pa | LEAF);
    *(volatile uint64_t *)ALIAS_VA = 0x1234;
    check(t, "two addresses of a page", "one", *(volatile uint64_t *)TEST_VA,
          0x1234);
    check(t, "two addresses of a page", "the direct map", *direct, 0x1234);
    *(volatile uint64_t *)phys_to_virt(other) = 0x5678;
    set(alias, ALIAS_VA, other | LEAF);
    check(t, "another page there", "", *(volatile uint64_t *)ALIAS_VA, 0x5678);
    set(alias, ALIAS_VA, 0);
    *direct = first;
    phys_free(k, other, 1);
}

/* PTEs reached through the address they map. */
static void self_map(struct selftest *t, const struct page *p)
{
    struct kernel *k = selftest_cpu(t)->kernel;
    uint64_t table = (uint64_t)p->pte - DIRECT_BASE;
    volatile uint64_t *entry = space_kernel_entry(k, ALIAS_VA, 1);
    volatile uint64_t *seen;

    set(entry, ALIAS_VA, (table & PTE_ADDR) | LEAF);
    seen = (volatile uint64_t *)(ALIAS_VA + table % PAGE_4K);
    set(p->pte, TEST_VA, p->pa | LEAF);
    check(t, "a table through itself", "read", (*seen & ~A_D) ^ (p->pa | LEAF),
          0);
    *seen = 0;
    invlpg(TEST_VA);
    check(t, "a table through itself", "written", *p->pte, 0);
    check_page_fault(t, "load, PTE cleared there", probe_load, TEST_VA, 0);
    *seen = p->pa | LEAF;
    check_quiet(t, "load, PTE written there", probe_load, TEST_VA);
    check(t, "a table through itself", "A set by a load", *seen & PTE_A, PTE_A);
    set(entry, ALIAS_VA, 0);
}

static void large_page(struct selftest *t)
{
    struct kernel *k = selftest_cpu(t)->kernel;
    uint64_t pa = phys_alloc(k, 2), last = LARGE_VA + PAGE_2M - 8;
    volatile uint64_t *pde = space_kernel_entry(k, LARGE_VA, 2);

    if (!pa)
        kernel_panic("the self-test needs a page of 2 MiB");
    set(pde, LARGE_VA, pa | LEAF | PTE_PS);
    check_quiet(t, "load, 2 MiB page", probe_load, last);
    check(t, "load, 2 MiB page", "A, D", *pde & A_D, PTE_A);
    check_quiet(t, "store, 2 MiB page", probe_store, last);
    check(t, "store, 2 MiB page", "A, D", *pde & A_D, A_D);
    check(t, "store, 2 MiB page", "what memory has",
          *(uint64_t *)phys_to_virt(pa + PAGE_2M - 8), last);
    set(pde, LARGE_VA, pa | PTE_P | PTE_PS | PTE_XD);
    check_page_fault(t, "store, read-only 2 MiB page", probe_store, LARGE_VA,
                     PF_P | PF_W);
    check_page_fault(t, "fetch, XD, 2 MiB page", probe_fetch, LARGE_VA,
                     PF_P | PF_I);
    set(pde, LARGE_VA, 0);
    *(uint64_t *)phys_to_virt(pa + PAGE_2M - 8) = 0;
    phys_free(k, pa, 2);
}

/* ---- SMEP and SMAP ----------------------------------------------------- */

static bool has_feature(unsigned bit)
{
    uint32_t r[4];

    cpuid(0, 0, r);
    if (r[0] < 7)
        return false;
    cpuid(7, 0, r);
    return r[1] >> bit & 1;
}

static uint64_t load_with_ac(uint64_t va)
{
    __asm__ volatile("pushfq; orl %0, (%%rsp); popfq; movq (%1), %%rax\n\t"
                     "pushfq; andl %2, (%%rsp); popfq"
                     :
                     : "i"((int)FLAG_AC), "r"(va), "i"(~(int)FLAG_AC)
                     : "rax", "memory", "cc");
    return 0;
}

/* The kernel's own use of user pages. */
static void supervisor_modes(struct selftest *t, const struct page *p)
{
    bool smep = has_feature(7), smap = has_feature(20);
    uint64_t cr4 = read_cr4();

    set(p->pte, TEST_VA, p->pa | LEAF | PTE_US);
    check_quiet(t, "fetch, user page", probe_fetch, TEST_VA);
    selftest_optional(t, true);
    if (smep) {
        write_cr4(cr4 | CR4_SMEP);
        check_page_fault(t, "fetch, user page, SMEP", probe_fetch, TEST_VA,
                         PF_P | PF_I);
        write_cr4(cr4);
    } else {
        selftest_absent(t, "SMEP");
    }
    if (smap) {
        write_cr4(cr4 | CR4_SMAP);
        check_page_fault(t, "load, user page, SMAP", probe_load, TEST_VA, PF_P);
        check_page_fault(t, "store, user page, SMAP", probe_store, TEST_VA,
                         PF_P | PF_W);
        check_quiet(t, "load, user page, SMAP, AC", load_with_ac, TEST_VA);
        write_cr4(cr4);
    } else {
        selftest_absent(t, "SMAP");
    }
    selftest_optional(t, false);
    check_quiet(t, "load, user page", probe_load, TEST_VA);
}

void selftest_paging(struct selftest *t)
{
    struct page page = make_page(t);

    accessed_and_dirty(t, &page);
    absent_pages(t, &page);
    rights(t, &page);
    reserved(t);
    aliases(t, &page);
    self_map(t, &page);
    large_page(t);
    supervisor_modes(t, &page);
    set(page.pte, TEST_VA, 0);
    phys_free(selftest_cpu(t)->kernel, page.pa, 1);
}
