/*
 * A guest kernel that runs translated, on the monitor's core without a CPU:
 * what the traps of translated code do, and what keeps translations true. The
 * tests say where the CPU is and which trap it takes.
 */
#include "mmu/entry.h"
#include "tests/monitor_guest.h"
#include "tests/test.h"

#include <string.h>

#define CODE      (MG_KERNEL + 0x110000)
#define OTHER     (MG_KERNEL + 0x114000) /* another page of code */
#define OTHER_PA  0x114000ull
#define DATA      (MG_KERNEL + 0x118000)
#define STACK     (MG_KERNEL + 0x120000)
#define IDT       (MG_KERNEL + 0x6000)
#define HANDLER   (MG_KERNEL + 0x11c000)
#define VECTOR_GP 13
#define VECTOR_PF 14
#define KICK      MON_VECTOR_KICK
#define WRITE     (PF_P | PF_W | PF_U)
#define IF        (1ull << 9)

static struct mg *guest(enum shadow_policy policy, unsigned cpus)
{
    struct mg *g = mg_create_translated(policy, cpus);

    CU_ASSERT_PTR_NOT_NULL_FATAL(g);
    for (unsigned i = 0; i < cpus; i++) {
        mg_cpu(g, i)->frame.rsp = STACK - i * 0x1000;
        mg_cpu(g, i)->v.idt_base = IDT;
    }
    for (unsigned vector = 0; vector < 256; vector++) {
        uint64_t gate[2] = {(HANDLER & 0xffff) | 0x08ull << 16 | 0x8eull << 40 |
                                (HANDLER >> 16 & 0xffff) << 48,
                            HANDLER >> 32};

        mg_code(g, IDT + 16 * vector, gate, sizeof gate);
    }
    return g;
}

/* The CPU is at `rip` of the guest's kernel, and what it executes there. */
static void go(struct mg *g, unsigned id, uint64_t rip)
{
    mg_cpu(g, id)->frame.rip = rip;
    mg_trap(g, id, KICK, 0, 0);
}

static struct bt_point point_of(struct mg *g, unsigned id)
{
    struct mon_cpu *cpu = mg_cpu(g, id);
    const struct bt_registers regs = {cpu->frame.rcx, cpu->frame.rdx,
                                      cpu->frame.rsp};
    struct bt_point point = {0};

    CU_ASSERT_TRUE(bt_recover(cpu->bt.cache[0],
                              (struct bt_state *)(cpu->bt.area[0] + BT_STATE),
                              cpu->frame.rip, &regs, &point));
    return point;
}

static uint64_t rip_of(struct mg *g, unsigned id)
{
    return point_of(g, id).rip;
}

/* The byte of translated code that comes next. */
static uint8_t next_byte(struct mg *g, unsigned id)
{
    struct mon_cpu *cpu = mg_cpu(g, id);

    return cpu->bt.area[0][cpu->frame.rip - cpu->bt.cache[0]->va];
}

/* ---- Traps ------------------------------------------------------------- */

static void faults_are_the_guests(void)
{
    struct mg *g = guest(SHADOW_UNSYNC, 1);
    struct mon_cpu *cpu = mg_cpu(g, 0);
    uint64_t frame[6];

    mg_code(g, CODE, "\x90\x8a\x07", 3); /* nop; mov (%rdi), %al */
    mg_code(g, HANDLER, "\x90", 1);
    go(g, 0, CODE);
    CU_ASSERT_EQUAL(rip_of(g, 0), CODE);
    cpu->frame.rip++; /* the NOP is one byte there too */
    CU_ASSERT_EQUAL(rip_of(g, 0), CODE + 1);
    mg_trap(g, 0, VECTOR_PF, PF_U, 0xffff900000000000);
    CU_ASSERT_EQUAL(cpu->end, MON_END_NONE);
    CU_ASSERT_EQUAL(rip_of(g, 0), HANDLER);
    CU_ASSERT_EQUAL(cpu->v.cr2, 0xffff900000000000);
    memcpy(frame, g->ram + (cpu->frame.rsp - MG_KERNEL), sizeof frame);
    CU_ASSERT_EQUAL(frame[0], 0); /* a read by CPL 0 */
    CU_ASSERT_EQUAL(frame[1], CODE + 1);
    CU_ASSERT_EQUAL(frame[2], 0x08);
    mg_destroy(g);
}

static void call_outs_go_on_behind(void)
{
    struct mg *g = guest(SHADOW_UNSYNC, 1);
    struct mon_cpu *cpu = mg_cpu(g, 0);

    mg_code(g, CODE, "\x44\x0f\x20\xc0\x90", 5); /* mov %cr8, %rax; nop */
    cpu->v.cr8 = 7;
    go(g, 0, CODE);
    CU_ASSERT_EQUAL(next_byte(g, 0), 0xf4);
    mg_trap(g, 0, VECTOR_GP, 0, 0);
    CU_ASSERT_EQUAL(cpu->frame.rax, 7);
    CU_ASSERT_EQUAL(rip_of(g, 0), CODE + 4);
    CU_ASSERT_EQUAL(next_byte(g, 0), 0x90);
    CU_ASSERT_EQUAL(bt_stats(g->bt[0])->blocks, 2); /* and the entry's */
    mg_destroy(g);
}

/* The first instruction of a page is in it and in the next, which isn't there:
 * the fault is on that, at that instruction. */
static void fetches_fault_where_they_should(void)
{
    struct mg *g = guest(SHADOW_UNSYNC, 1);
    struct mon_cpu *cpu = mg_cpu(g, 0);
    uint64_t rip = OTHER + PAGE_4K - 2, frame[2];

    mg_code(g, rip, "\x90\xe8", 2);
    mg_code(g, HANDLER, "\x90", 1);
    *mg_pte(g, OTHER + PAGE_4K) = 0;
    go(g, 0, rip);
    CU_ASSERT_EQUAL(rip_of(g, 0), rip);
    cpu->frame.rip++;
    CU_ASSERT_EQUAL(rip_of(g, 0), rip + 1);
    cpu->frame.rip = point_of(g, 0).rip; /* taken as an exit */
    mg_trap(g, 0, KICK, 0, 0);
    CU_ASSERT_EQUAL(rip_of(g, 0), HANDLER);
    CU_ASSERT_EQUAL(cpu->v.cr2, OTHER + PAGE_4K);
    memcpy(frame, g->ram + (cpu->frame.rsp - MG_KERNEL), sizeof frame);
    CU_ASSERT_EQUAL(frame[1], rip + 1);
    mg_destroy(g);
}

/* ---- Code that changes ------------------------------------------------- */

/* A store of CODE's to `va`, whose shadow is read-only. */
static void store_to(struct mg *g, unsigned id, uint64_t va, uint8_t value)
{
    struct mon_cpu *cpu = mg_cpu(g, id);

    go(g, id, CODE);
    cpu->frame.rdi = va;
    cpu->frame.rax = value;
    mg_trap(g, id, VECTOR_PF, WRITE, va);
}

static void written_code_is_translated_anew(void)
{
    struct mg *g = guest(SHADOW_UNSYNC, 2);
    unsigned level;

    mg_code(g, CODE, "\x88\x07\x90", 3); /* mov %al, (%rdi); nop */
    mg_code(g, OTHER, "\x90\x90", 2);
    go(g, 0, OTHER);
    go(g, 1, OTHER);
    CU_ASSERT_EQUAL(next_byte(g, 0), 0x90);
    CU_ASSERT_FALSE(mg_leaf(g, 0, OTHER, &level) & PTE_RW);
    store_to(g, 0, OTHER, 0xf8);
    /* The store runs again: now the CPU can do it. */
    CU_ASSERT_EQUAL(rip_of(g, 0), CODE);
    CU_ASSERT_TRUE(mg_cpu(g, 1)->bt.stale);
    CU_ASSERT_EQUAL(mg_cpu(g, 0)->traps[MON_CODE_WRITE], 1);
    mg_trap(g, 0, VECTOR_PF, WRITE, OTHER);
    CU_ASSERT_TRUE(mg_leaf(g, 0, OTHER, &level) & PTE_RW);
    g->ram[OTHER_PA] = 0xf8; /* clc */
    go(g, 0, OTHER);
    CU_ASSERT_EQUAL(next_byte(g, 0), 0xf8);
    CU_ASSERT_FALSE(mg_leaf(g, 0, OTHER, &level) & PTE_RW);
    /* Who was in the old code is at the same place of the new one. */
    mg_trap(g, 1, KICK, 0, 0);
    CU_ASSERT_EQUAL(rip_of(g, 1), OTHER);
    CU_ASSERT_EQUAL(next_byte(g, 1), 0xf8);
    CU_ASSERT_FALSE(mg_cpu(g, 1)->bt.stale);
    mg_destroy(g);
}

static void code_writes_its_own_page(void)
{
    struct mg *g = guest(SHADOW_UNSYNC, 1);
    struct mon_cpu *cpu = mg_cpu(g, 0);

    mg_code(g, CODE, "\x88\x07\x90", 3);
    store_to(g, 0, CODE + 2, 0xf8);
    CU_ASSERT_EQUAL(g->ram[CODE + 2 - MG_KERNEL], 0xf8);
    CU_ASSERT_EQUAL(rip_of(g, 0), CODE + 2);
    CU_ASSERT_EQUAL(next_byte(g, 0), 0xf8);
    CU_ASSERT_EQUAL(cpu->end, MON_END_NONE);
    mg_destroy(g);
}

/* Another frame at the same address counts from the flush on. */
static void mapped_elsewhere_counts_from_the_flush(void)
{
    struct mg *g = guest(SHADOW_UNSYNC, 1);
    struct mon_cpu *cpu = mg_cpu(g, 0);

    mg_code(g, CODE, "\x0f\x01\x3f\x90", 4); /* invlpg (%rdi) */
    mg_code(g, OTHER, "\xf8", 1);
    mg_code(g, DATA, "\xf9", 1); /* stc */
    go(g, 0, OTHER);
    CU_ASSERT_EQUAL(next_byte(g, 0), 0xf8);
    *mg_pte(g, OTHER) = *mg_pte(g, DATA);
    go(g, 0, OTHER);
    CU_ASSERT_EQUAL(next_byte(g, 0), 0xf8);
    go(g, 0, CODE);
    cpu->frame.rdi = DATA; /* not this page */
    mg_trap(g, 0, VECTOR_GP, 0, 0);
    go(g, 0, OTHER);
    CU_ASSERT_EQUAL(next_byte(g, 0), 0xf8);
    go(g, 0, CODE);
    cpu->frame.rdi = OTHER;
    mg_trap(g, 0, VECTOR_GP, 0, 0);
    CU_ASSERT_EQUAL(rip_of(g, 0), CODE + 3);
    go(g, 0, OTHER);
    CU_ASSERT_EQUAL(next_byte(g, 0), 0xf9);
    mg_destroy(g);
}

static void another_root_other_code(void)
{
    struct mg *g = guest(SHADOW_UNSYNC, 1);
    struct mon_cpu *cpu = mg_cpu(g, 0);
    const uint64_t roots[2] = {MG_PAGES, 0x200000}, user = MG_USER;

    /* The same tables but for the user's half, where the kernel has code. */
    memcpy(g->ram + roots[1], g->ram + roots[0], PAGE_4K);
    memcpy(g->ram + 0x201000,
           g->ram + (*(uint64_t *)(g->ram + roots[0]) & PTE_ADDR), PAGE_4K);
    memcpy(g->ram + 0x202000,
           g->ram + (*(uint64_t *)(g->ram + 0x201000) & PTE_ADDR), PAGE_4K);
    memset(g->ram + 0x203000, 0, PAGE_4K);
    *(uint64_t *)(g->ram + roots[1]) = 0x201000 | PTE_P | PTE_RW | PTE_US;
    *(uint64_t *)(g->ram + 0x201000) = 0x202000 | PTE_P | PTE_RW | PTE_US;
    *(uint64_t *)(g->ram + 0x202000 + 16) = 0x203000 | PTE_P | PTE_RW | PTE_US;
    *(uint64_t *)(g->ram + 0x203000) = 0x204000 | PTE_P | PTE_RW | PTE_US;
    g->ram[MG_USER_PA] = 0xf8;
    g->ram[0x204000] = 0xf9;
    mg_code(g, CODE, "\x0f\x22\xd8\x90", 4); /* mov %rax, %cr3 */
    for (unsigned i = 0; i < 6; i++) {
        go(g, 0, CODE);
        cpu->frame.rax = roots[i % 2];
        mg_trap(g, 0, VECTOR_GP, 0, 0);
        CU_ASSERT_EQUAL(rip_of(g, 0), CODE + 3);
        go(g, 0, user);
        CU_ASSERT_EQUAL(next_byte(g, 0), i % 2 ? 0xf9 : 0xf8);
    }
    CU_ASSERT_EQUAL(cpu->end, MON_END_NONE);
    mg_destroy(g);
}

/* ---- Adaptive ---------------------------------------------------------- */

static void stores_to_tables_are_called_out(void)
{
    struct mg *g = guest(SHADOW_TRACED, 1);
    struct mon_cpu *cpu = mg_cpu(g, 0);
    uint64_t table = MG_KERNEL + MG_PAGES, faults = 0;

    mg_code(g, CODE, "\x48\x89\x07\x90", 4); /* mov %rax, (%rdi) */
    for (unsigned i = 0; i < 100; i++) {
        /* A level that is never given up: the root's. */
        cpu->frame.rdi = table + 8 * 300;
        cpu->frame.rax = i << 12 & 0x7000;
        go(g, 0, CODE);
        if (next_byte(g, 0) == 0xf4) {
            mg_trap(g, 0, VECTOR_GP, 0, 0);
        } else {
            faults++;
            mg_trap(g, 0, VECTOR_PF, WRITE, cpu->frame.rdi);
        }
        CU_ASSERT_EQUAL(*(uint64_t *)(g->ram + MG_PAGES + 8 * 300),
                        (i << 12 & 0x7000));
        CU_ASSERT_EQUAL(rip_of(g, 0), CODE + 3);
    }
    CU_ASSERT(faults >= 3 && faults < 10);
    CU_ASSERT_EQUAL(cpu->traps[MON_STORE_CALL_OUT], 100 - faults);
    /* And a copy again when it writes to something else for long. */
    for (unsigned i = 0; i < 16; i++) {
        go(g, 0, CODE);
        CU_ASSERT_EQUAL(next_byte(g, 0), 0xf4);
        cpu->frame.rdi = DATA;
        mg_trap(g, 0, VECTOR_GP, 0, 0);
    }
    go(g, 0, CODE);
    CU_ASSERT_EQUAL(next_byte(g, 0), 0x48);
    CU_ASSERT_EQUAL(bt_stats(g->bt[0])->adapted[1], 1);
    CU_ASSERT_EQUAL(bt_stats(g->bt[0])->adapted[0], 1);
    mg_destroy(g);
}

/* ---- Interrupts -------------------------------------------------------- */

static struct bt_flags *flags_of(struct mg *g)
{
    return (struct bt_flags *)(mg_cpu(g, 0)->bt.area[0] + BT_FLAGS);
}

static bool flags_are_guarded(struct mg *g)
{
    return !(g->mon.area_tables[BT_FLAGS / PAGE_4K] & PTE_RW);
}

static void pend(struct mg *g, unsigned vector)
{
    struct mon_cpu *cpu = mg_cpu(g, 0);

    cpu->v.apic_base |= 3u << 10;
    cpu->v.apic_svr = 0x1ff;
    cpu->v.irr[vector / 64] |= 1ull << vector % 64;
    cpu->v.irr_any = true;
}

static void interrupts_wait_for_sti(void)
{
    struct mg *g = guest(SHADOW_UNSYNC, 1);
    struct mon_cpu *cpu = mg_cpu(g, 0);
    uint64_t frame[3];

    g->mon.area_tables[BT_FLAGS / PAGE_4K] = PTE_P | PTE_RW | PTE_US;
    mg_code(g, CODE, "\x90\xfb\x90\x90", 4); /* nop; sti; nop; nop */
    mg_code(g, HANDLER, "\x90", 1);
    go(g, 0, CODE);
    CU_ASSERT_FALSE(flags_are_guarded(g));
    pend(g, 0x40);
    mg_trap(g, 0, KICK, 0, 0);
    CU_ASSERT_EQUAL(rip_of(g, 0), CODE);
    CU_ASSERT_TRUE(flags_are_guarded(g));
    cpu->frame.rip++; /* STI writes, and faults */
    mg_trap(g, 0, VECTOR_PF, WRITE, cpu->bt.cache[0]->va + BT_FLAGS);
    CU_ASSERT_EQUAL(rip_of(g, 0), CODE + 2);
    CU_ASSERT_TRUE(cpu->frame.rflags & 1 << 8); /* a step before it comes */
    cpu->frame.rip++;
    mg_trap(g, 0, 1, 0, 0);
    CU_ASSERT_EQUAL(rip_of(g, 0), HANDLER);
    CU_ASSERT_FALSE(cpu->frame.rflags & 1 << 8);
    CU_ASSERT_FALSE(flags_are_guarded(g));
    memcpy(frame, g->ram + (cpu->frame.rsp - MG_KERNEL), sizeof frame);
    CU_ASSERT_EQUAL(frame[0], CODE + 3);
    CU_ASSERT_TRUE(frame[2] & IF);
    CU_ASSERT_EQUAL(flags_of(g)->interrupts, 0);
    mg_destroy(g);
}

/* With IF set one comes wherever the CPU is: in the midst of what a RET became
 * it is seen before or behind it. */
static void interrupts_come_anywhere(void)
{
    struct mg *g = guest(SHADOW_UNSYNC, 1);
    struct mon_cpu *cpu = mg_cpu(g, 0);
    uint64_t before = 0;

    mg_code(g, CODE, "\xc3", 1);
    mg_code(g, HANDLER, "\x90", 1);
    for (unsigned i = 0; i < 60; i++) {
        uint64_t rsp = STACK - 0x100, frame[4], target = OTHER;

        mg_code(g, rsp, &target, 8);
        cpu->frame.rsp = rsp;
        cpu->frame.rcx = 0x1111;
        cpu->v.isr[1] = 0;
        cpu->v.flags = 0;
        go(g, 0, CODE);
        flags_of(g)->interrupts = 2;
        cpu->frame.rip += i;
        if (point_of(g, 0).kind != BT_INSTRUCTION || !point_of(g, 0).block ||
            point_of(g, 0).block->gva != CODE)
            break;
        if (point_of(g, 0).restored & 2)
            ((struct bt_state *)(cpu->bt.area[0] + BT_STATE))->spill[1] =
                0x1111;
        if (point_of(g, 0).rip != CODE) {
            cpu->frame.rcx = OTHER; /* popped */
            cpu->frame.rsp += 8;
        }
        pend(g, 0x40);
        mg_trap(g, 0, KICK, 0, 0);
        CU_ASSERT_EQUAL(rip_of(g, 0), HANDLER);
        memcpy(frame, g->ram + (cpu->frame.rsp - MG_KERNEL), sizeof frame);
        CU_ASSERT_EQUAL(frame[3], frame[0] == CODE ? rsp : rsp + 8);
        CU_ASSERT(frame[0] == CODE || frame[0] == OTHER);
        CU_ASSERT_EQUAL(cpu->frame.rcx, 0x1111);
        before += frame[0] == CODE;
        if (frame[0] == OTHER && before) {
            mg_destroy(g);
            return;
        }
    }
    CU_FAIL("no address behind the RET was tried");
    mg_destroy(g);
}

TEST_SUITE(translated, {"faults are the guest's", faults_are_the_guests},
           {"call-outs go on behind", call_outs_go_on_behind},
           {"fetches fault where they should", fetches_fault_where_they_should},
           {"code that is written is translated anew",
            written_code_is_translated_anew},
           {"code that writes to its own page", code_writes_its_own_page},
           {"another mapping counts from the flush on",
            mapped_elsewhere_counts_from_the_flush},
           {"another root, other code", another_root_other_code},
           {"stores to tables are called out", stores_to_tables_are_called_out},
           {"interrupts wait for STI", interrupts_wait_for_sti},
           {"interrupts come anywhere", interrupts_come_anywhere});
