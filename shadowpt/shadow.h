/*
 * The shadow MMU: tables the CPU walks in place of a guest's, kept in step
 * with them. Freestanding: no libc, no globals, all memory in one arena of
 * the caller's, everything else behind callbacks. Several vCPUs can share it,
 * one call at a time: the caller locks.
 *
 * The shadow tables are x86-64's (mmu/entry.h), with as many levels as the
 * guest's. Their upper entries allow everything; a leaf has the rights of
 * the guest's whole path, is absent until the guest's accessed bits are set,
 * and is read-only until the guest's dirty bit is. Accessed and dirty bits of
 * the shadow's own entries are always set: the CPU never writes to them. It
 * must run on them with CR0.WP and EFER.NXE set, whatever the guest asked for,
 * and without PCIDs, unless both flush callbacks reach all of them.
 *
 * Words are Adams and Agesen's (ASPLOS 2006): a true page fault is the
 * guest's own, a hidden one only says that the shadow was not filled yet, a
 * trace is the write protection of a guest table.
 */
#ifndef SHADOWPT_SHADOW_H
#define SHADOWPT_SHADOW_H

#include "mmu/walk.h"
#include "shadowpt/policy.h"

#include <stddef.h>

/* Whose accesses go through one set of shadow tables. */
enum shadow_mode {
    SHADOW_BOTH,   /* as in hardware: the CPU knows the guest's CPL, and
                      SMEP, SMAP and protection keys are the CPU's to check */
    SHADOW_KERNEL, /* only the guest's CPL 0, which runs at CPL 3 */
    SHADOW_USER,   /* only the guest's CPL 3 */
    SHADOW_MODES,
};

struct shadow_config {
    enum shadow_policy policy;
    unsigned roots; /* at most so many are cached: 1 to SHADOW_ROOTS_MAX */
    bool splinter;  /* 4 KiB shadows even where the host has large pages */
    /* A table written so often with no fault through it in between is taken
     * for one no longer: its shadow is given up. 2 or more (KVM's is 3), or 0:
     * never. */
    unsigned flood;
    /* Host-physical address of the arena, 4 KiB aligned. The tables come first
     * in it and must be contiguous there: who walks them in software finds the
     * table at address X at arena + (X - tables_pa). */
    uint64_t tables_pa;
    /* That share it, at most SHADOW_CPUS_MAX; 0 is 1. Each needs a root. */
    unsigned cpus;
    /* One entry of every root is the caller's, and always there: of its
     * addresses the guest has none. By mode. */
    bool fixed;
    unsigned fixed_index;
    uint64_t fixed_entry[SHADOW_MODES];
    /* 0, or a reserved bit of a leaf. Leaves of SHADOW_USER that can't be
     * executed then have it, so that a load or store that misses the real TLB
     * faults, and a hit does not (BadgerTrap: Gandhi, Basu, Hill, Swift, ACM
     * SIGARCH Computer Architecture News 42(2), 2014). A hidden fault fills a
     * leaf with it too: the access misses again, and is counted then. */
    uint64_t poison;
};

#define SHADOW_CPUS_MAX 32u
/* Enough for one access at a time; each further CPU needs two more. An
 * instruction of a real CPU can need a dozen pages at once, or it faults for
 * ever: give it 64. */
#define SHADOW_PAGES_MIN 16u
#define SHADOW_PAGES_MAX (1u << 22)

/* Where a guest frame is in the host. */
struct shadow_frame {
    uint64_t frame; /* host-physical frame number */
    /* 1, 2 or 3: the 4 KiB, 2 MiB or 1 GiB of guest frames around it,
     * aligned, are contiguous, aligned and have the same rights there. */
    unsigned level;
    bool writable, executable;
};

struct shadow_ops {
    struct mmu_memory memory; /* guest-physical; its `arg` is everybody's */
    /* 0, or a negative errno: no memory there. */
    int (*frame)(void *arg, uint64_t guest_frame, struct shadow_frame *frame);
    /* The TLB of the CPU whose call this is, before it goes on: one page as
     * INVLPG does it, in every root that it ran since the last flush (several
     * where the modes are apart); and everything of every root. Then
     * everything of every CPU: when it returns no other CPU uses, or still
     * does an access by, what it had. It can come in the midst of a call, and
     * must not call back. Paging-structure caches go with each. flush_own may
     * be NULL where there is one CPU. */
    void (*flush_page)(void *arg, uint64_t va);
    void (*flush_own)(void *arg);
    void (*flush_all)(void *arg);
};

enum shadow_outcome {
    SHADOW_FIXED,      /* a hidden fault: run the instruction again */
    SHADOW_TRUE_FAULT, /* give the guest #PF with `error` */
    /* The guest may do this write, but the CPU can't: of a traced table, of
     * memory read-only in the host, or at CPL 0 with CR0.WP clear of a user
     * page that is read-only or so by its protection key. Emulate it at `pa`,
     * then call shadow_guest_write. */
    SHADOW_EMULATE_WRITE,
    /* Nothing (or nothing executable, on a fetch) is at `pa`: a device's
     * address, or, with `table`, a guest table that can't be read. */
    SHADOW_NO_MEMORY,
    SHADOW_NOT_CANONICAL, /* #GP or #SS */
    /* The guest's tables allow it, but the address is in the fixed entry's. */
    SHADOW_RESERVED,
    /* A TLB miss: the leaf works until shadow_repoison. Have the CPU load it
     * into its TLB with an access from CPL 3. */
    SHADOW_POISONED,
};

struct shadow_fault {
    uint32_t error; /* PF_*, for SHADOW_TRUE_FAULT */
    uint64_t pa;    /* guest-physical address of the access */
    bool table;
    unsigned level; /* SHADOW_POISONED: of the leaf */
};

/* Events since shadow_init. */
struct shadow_stats {
    uint64_t hidden_missing;    /* fixed faults, the page not present ... */
    uint64_t hidden_protection; /* ... and present, but with fewer rights */
    uint64_t true_faults;
    uint64_t traced_writes;   /* faults that ended in SHADOW_EMULATE_WRITE */
    uint64_t no_memory;       /* faults that ended in SHADOW_NO_MEMORY */
    uint64_t guest_writes;    /* calls of shadow_guest_write */
    uint64_t updated_entries; /* leaves rewritten because of such a call */
    uint64_t prefetched;      /* leaves filled by such a call, or at INVLPG */
    uint64_t unsyncs;         /* page tables let go */
    uint64_t resyncs;         /* page tables looked through again */
    uint64_t resync_entries;  /* single entries looked at, at INVLPG */
    uint64_t dropped_entries; /* shadow entries taken away, all causes */
    uint64_t write_protected; /* leaves made read-only for a trace */
    uint64_t zapped_tables;   /* shadow tables freed, all causes */
    uint64_t reclaims;        /* times the arena was full */
    uint64_t floods;          /* tables given up as not tables any more */
    uint64_t splintered;      /* large guest pages begun in smaller shadows */
    uint64_t large;           /* large guest pages in one large entry */
    uint64_t roots_created, roots_reused, roots_evicted;
    uint64_t accessed_set, dirty_set; /* guest entries changed */
    uint64_t invlpg, cr3_loads, flushes;
    uint64_t tlb_page_flushes, tlb_own_flushes; /* asked of one CPU ... */
    uint64_t tlb_flushes;                       /* ... and of all */
    /* Poisoned: loads and stores by level of the leaf. */
    uint64_t tlb_misses[2][3];
};

struct shadow;

/* Bytes of an arena for `tables` shadow tables: 10.3 to 11 KiB for each. 0
 * when out of SHADOW_PAGES_MIN .. SHADOW_PAGES_MAX. */
size_t shadow_arena_bytes(unsigned tables);

/* Makes a shadow MMU in the arena (4 KiB aligned), in which it stays: there is
 * nothing to free. -EINVAL for a configuration out of range, -ENOMEM when the
 * arena holds too few tables (SHADOW_PAGES_MIN). Next is shadow_set_state. */
int shadow_init(struct shadow **shadow, void *arena, size_t bytes,
                const struct shadow_config *config,
                const struct shadow_ops *ops);

/* The calls that follow are this CPU's, below config.cpus: each has its own
 * state, mode and root. CPU 0 is selected at first. To be called whenever the
 * CPU comes from its guest: its CR3 holds what shadow_root said last, and that
 * table, its fixed entry with it, stays as long as this CPU isn't selected
 * again, whatever the calls between do. */
void shadow_select(struct shadow *s, unsigned cpu);

/* The guest's control registers and whose accesses come next; CR3 too, which
 * is no flush when it stays the same (shadow_flush_all, where the change is
 * one). -EINVAL for a number of levels or physical bits that can't be;
 * -EOPNOTSUPP for what shadows can't express: protection keys in a mode of its
 * own; SMAP without SMEP in SHADOW_KERNEL. Nothing is changed then. */
int shadow_set_state(struct shadow *s, const struct mmu_state *state,
                     enum shadow_mode mode);

/* MOV to CR3, taken as one that flushes everything. */
void shadow_set_cr3(struct shadow *s, uint64_t cr3);

/* What the CPU's CR3 must hold: may change with the two calls above, and with
 * no other. */
uint64_t shadow_root(const struct shadow *s);

/* A page fault of the CPU's: `error` is its error code, the request the
 * guest's access (in SHADOW_KERNEL its `user` is false, whatever the error
 * code says). */
enum shadow_outcome shadow_fault(struct shadow *s, uint32_t error,
                                 const struct mmu_request *request,
                                 struct shadow_fault *fault);

/* What the CPU would find by its current root, in software: true, and where,
 * when a leaf allows the access. Not in the fixed entry. */
bool shadow_lookup(const struct shadow *s, uint64_t va, enum mmu_access access,
                   uint64_t *pa);

/* Changes with every entry: what shadow_lookup said holds as long as this and
 * shadow_root stay the same. */
uint64_t shadow_epoch(const struct shadow *s);

/* Somebody writes to a table in a way the caller can't emulate: it is none
 * any longer, until a walk comes through it again. False when a CPU's root
 * shadows it: that one can't be given up. */
bool shadow_unshadow(struct shadow *s, uint64_t pa);

/* After that access: what this CPU's poisoned faults lifted is poisoned again,
 * and stays in its TLB. What another CPU has lifted too waits for that one.
 * While a leaf is lifted a third CPU's miss of it isn't counted. */
void shadow_repoison(struct shadow *s);

/* Guest memory was changed by somebody who isn't the CPU on the shadow
 * tables, an emulated write included: after the write. */
void shadow_guest_write(struct shadow *s, uint64_t pa, uint64_t bytes);

/* INVLPG; and every other flush of the guest's (CR4, INVPCID, WBINVD is not
 * one). */
void shadow_invlpg(struct shadow *s, uint64_t va);
void shadow_flush_all(struct shadow *s);

/* The host's mapping of guest frames changed or goes: after the change. */
void shadow_host_changed(struct shadow *s, uint64_t first, uint64_t frames);

const struct shadow_stats *shadow_stats(const struct shadow *s);

/* Shadow tables in use, and how many there are. */
unsigned shadow_tables_used(const struct shadow *s);
unsigned shadow_tables(const struct shadow *s);

#endif
