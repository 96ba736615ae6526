#include "vmm/software.h"

#include "bt/bt.h"
#include "mmu/entry.h"
#include "vmm/decode.h"
#include "vmm/monitor/monitor.h"
#include "vmm/patch.h"
#include "vmm/recorder.h"
#include "vmm/vm_private.h"

#include <cpuid.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#define SLOT_MONITOR 2
/* Reserved in a leaf where MAXPHYADDR is below 52. */
#define POISON (1ull << 51)
#define FLOOD  3

/* The monitor's page tables, one page each. */
enum {
    TABLE_PDPT,
    TABLE_BOOT,
    TABLE_PD,
    TABLE_PT,
    TABLE_KERNEL_PDPT, /* with the translation caches */
    TABLE_AREA_PD,
    TABLE_AREA_PT,
    TABLE_WINDOW = TABLE_AREA_PT + MON_CPUS_MAX,
};

struct software {
    struct vm *vm;
    void *mapping; /* with room to align */
    uint8_t *memory;
    uint64_t bytes, pa;
    struct mon_config config;
    struct patch_list patches;
    struct mon *mon; /* the monitor's; ours with assist off */
    struct mon own;
    struct bt *bt[MON_CPUS_MAX]; /* translate: of each vCPU */
    struct bt *user_bt;          /* and of user code, with a trace */
    struct recorder *recorder;
    struct bt_stats bt_total;
};

extern const uint8_t monitor_image[], monitor_image_end[];

static struct mon_cpu *cpu_of(const struct software *sw, unsigned id)
{
    return (struct mon_cpu *)(sw->memory + MON_CPUS + id * MON_CPU_BYTES);
}

/* ---- The monitor's memory and page tables ------------------------------ */

/* Tables for all of RAM twice (as the kernel and as user code see it), and for
 * the tables above. */
static unsigned arena_tables(const struct vm *vm)
{
    uint64_t tables = 512 + 3 * (vm->memory.ram_bytes / PAGE_2M);

    return tables < SHADOW_PAGES_MAX ? (unsigned)tables : SHADOW_PAGES_MAX;
}

static uint64_t *table(const struct software *sw, unsigned n)
{
    return (uint64_t *)(sw->memory + MON_TABLES + n * PAGE_4K);
}

static uint64_t table_entry(const struct software *sw, unsigned n)
{
    return (sw->pa + MON_TABLES + n * PAGE_4K) | PTE_P | PTE_RW | PTE_US |
           PTE_A;
}

#define OWN_LEAF (PTE_P | PTE_A | PTE_D)

/* Text and constants can't be written, nothing else can be executed, and CPL 3
 * can touch none of it but one page: a load, and what traps after it. */
static void map_own_memory(struct software *sw)
{
    static const uint8_t touch[] = {0x8a, 0x00, 0xf4}; /* MOV (RAX), AL; HLT */
    uint64_t *pd = table(sw, TABLE_PD), *pt = table(sw, TABLE_PT);

    table(sw, TABLE_PDPT)[0] = table_entry(sw, TABLE_PD);
    pd[0] = table_entry(sw, TABLE_PT);
    for (unsigned i = 0; i < PT_ENTRIES; i++) {
        bool text = i < MON_IMAGE_MAX / PAGE_4K;

        pt[i] =
            (sw->pa + i * PAGE_4K) | OWN_LEAF | (text ? 0 : PTE_RW | PTE_XD);
    }
    pt[MON_TOUCH / PAGE_4K] = (sw->pa + MON_TOUCH) | OWN_LEAF | PTE_US;
    memcpy(sw->memory + MON_TOUCH, touch, sizeof touch);
    for (uint64_t i = 1; i < sw->bytes / PAGE_2M; i++)
        pd[i] = (sw->pa + i * PAGE_2M) | OWN_LEAF | PTE_RW | PTE_XD | PTE_PS;
}

/* Guest RAM, 2 MiB at a time; a hole stays one. */
static void map_window(struct software *sw)
{
    const struct mon_config *c = &sw->config;
    unsigned first = pt_index(MON_WINDOW, 3), next = TABLE_WINDOW;

    for (uint64_t gb = 0; gb < c->high_end || gb < c->low_end; gb += PAGE_1G) {
        uint64_t *pd = table(sw, next);

        table(sw, TABLE_PDPT)[first + gb / PAGE_1G] = table_entry(sw, next++);
        for (uint64_t pa = gb; pa < gb + PAGE_1G; pa += PAGE_2M)
            if (pa < c->low_end || (pa >= RAM_HOLE_END && pa < c->high_end))
                pd[pt_index(pa, 2)] = pa | OWN_LEAF | PTE_RW | PTE_XD | PTE_PS;
    }
}

/* What CPL 3 has of a vCPU's area (bt/cache.h). */
static void map_area(struct software *sw, unsigned id)
{
    uint64_t pa = sw->pa + sw->config.areas + (uint64_t)id * BT_AREA;
    uint64_t *pd = table(sw, TABLE_AREA_PD) + id * (BT_AREA / PAGE_2M);
    uint64_t *pt = table(sw, TABLE_AREA_PT + id);
    const uint64_t data = OWN_LEAF | PTE_US | PTE_XD;

    pd[0] = table_entry(sw, TABLE_AREA_PT + id);
    pd[BT_CODE / PAGE_2M] = (pa + BT_CODE) | OWN_LEAF | PTE_US | PTE_PS;
    pt[BT_STATE / PAGE_4K] = (pa + BT_STATE) | data | PTE_RW;
    pt[BT_FLAGS / PAGE_4K] = (pa + BT_FLAGS) | data | PTE_RW;
    pt[BT_POPF / PAGE_4K] = (pa + BT_POPF) | data;
    for (uint64_t at = 0; at < BT_TABLE_SIZE * 8; at += PAGE_4K)
        pt[(BT_TABLE + at) / PAGE_4K] = (pa + BT_TABLE + at) | data;
}

/* User code's translations share the state, and so the log, of the kernel's. */
static void map_trace(struct software *sw)
{
    uint64_t pa = sw->pa + sw->config.areas + BT_LOG;
    uint64_t *pd = table(sw, TABLE_AREA_PD) + BT_LOG / PAGE_2M;
    uint64_t *pt = table(sw, TABLE_AREA_PT + BT_LOG / BT_AREA);
    const uint64_t data = OWN_LEAF | PTE_US | PTE_XD | PTE_RW;

    map_area(sw, BT_USER_AREA / BT_AREA);
    table(sw, TABLE_AREA_PT + BT_USER_AREA / BT_AREA)[BT_STATE / PAGE_4K] =
        table(sw, TABLE_AREA_PT)[BT_STATE / PAGE_4K];
    pd[0] = pa | data | PTE_PS;
    pd[1] = table_entry(sw, TABLE_AREA_PT + BT_LOG / BT_AREA);
    for (uint64_t at = PAGE_2M; at < BT_LOG_END - BT_LOG; at += PAGE_4K)
        pt[at % PAGE_2M / PAGE_4K] = (pa + at) | data;
}

/* Only the kernel's roots have them, user code sees no more than before; but
 * with a trace. */
static void map_areas(struct software *sw)
{
    uint64_t *pdpt = table(sw, TABLE_KERNEL_PDPT);

    memcpy(pdpt, table(sw, TABLE_PDPT), PAGE_4K);
    pdpt[pt_index(MON_AREAS, 3)] = table_entry(sw, TABLE_AREA_PD);
    for (unsigned i = 0; i < sw->config.cpus; i++)
        map_area(sw, i);
    if (sw->config.trace)
        map_trace(sw);
}

static void write_tables(struct software *sw)
{
    table(sw, TABLE_BOOT)[MON_SLOT] = table_entry(sw, TABLE_PDPT);
    map_own_memory(sw);
    map_window(sw);
    if (sw->config.translate)
        map_areas(sw);
}

/* What translation needs behind the rest, in mon_config's words. */
static void place_areas(struct software *sw)
{
    bool trace = sw->vm->config.software->trace;
    unsigned cpus = sw->vm->config.vcpus;
    struct mon_config *config = &sw->config;

    config->areas = (sw->bytes + PAGE_2M - 1) & ~(PAGE_2M - 1);
    config->caches =
        config->areas + (trace ? BT_TRACE_AREA : cpus * (uint64_t)BT_AREA);
    config->code_map = config->caches + (cpus + trace) * MON_CACHE_BYTES;
    config->area_tables = MON_TABLES + TABLE_AREA_PT * PAGE_4K;
    config->kernel_pdpt = MON_TABLES + TABLE_KERNEL_PDPT * PAGE_4K;
    sw->bytes = config->code_map + sw->pa / PAGE_4K / 8;
}

static int create_memory(struct software *sw, struct why *why)
{
    struct vm *vm = sw->vm;
    struct kvm_userspace_memory_region region = {.slot = SLOT_MONITOR};

    sw->pa = vm->memory.ram_bytes > RAM_HOLE_START
                 ? RAM_HOLE_END + vm->memory.ram_bytes - RAM_HOLE_START
                 : RAM_HOLE_END;
    sw->config.arena_bytes = shadow_arena_bytes(arena_tables(vm));
    sw->bytes = MON_ARENA + sw->config.arena_bytes;
    if (vm->config.software->pv) {
        sw->config.frames = (sw->bytes + PAGE_4K - 1) & ~(PAGE_4K - 1);
        sw->bytes =
            sw->config.frames + sw->pa / PAGE_4K * sizeof(struct direct_frame);
    }
    if (vm->config.software->translate)
        place_areas(sw);
    sw->bytes = (sw->bytes + PAGE_2M - 1) & ~(PAGE_2M - 1);
    if (sw->bytes > PAGE_1G || vm->memory.ram_bytes > MON_WINDOW_MAX)
        return why_set(why, ENOTSUP,
                       "the software VMM runs guests of at most 64 GiB; use a "
                       "smaller --size or --ram");
    sw->mapping = mmap(NULL, sw->bytes + PAGE_2M, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (sw->mapping == MAP_FAILED) {
        sw->mapping = NULL;
        return why_set(why, errno, "no memory for the monitor: %s",
                       strerror(errno));
    }
    /* Large pages, and all of them there: a run measures the monitor's work
     * and not KVM's first touches of it. */
    sw->memory =
        (uint8_t *)(((uintptr_t)sw->mapping + PAGE_2M - 1) & ~(PAGE_2M - 1));
    madvise(sw->memory, sw->bytes, MADV_HUGEPAGE);
    madvise(sw->memory, sw->bytes, MADV_POPULATE_WRITE);
    region.guest_phys_addr = sw->pa;
    region.memory_size = sw->bytes;
    region.userspace_addr = (uint64_t)sw->memory;
    if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region))
        return why_set(why, errno, "KVM refused the monitor's memory: %s",
                       strerror(errno));
    memcpy(sw->memory, monitor_image,
           (size_t)(monitor_image_end - monitor_image));
    return 0;
}

/* ---- What only the host knows ------------------------------------------ */

static unsigned physical_bits(void)
{
    unsigned a, b, c, d;

    if (!__get_cpuid(0x80000008, &a, &b, &c, &d))
        return 36;
    a &= 0xff;
    return a < 36 ? 36 : a > 52 ? 52 : a;
}

static void configure(struct software *sw)
{
    const struct vm *vm = sw->vm;
    const struct vm_software *want = vm->config.software;
    uint64_t ram = vm->memory.ram_bytes;
    bool low = ram <= RAM_HOLE_START;

    sw->config.cpus = vm->config.vcpus;
    sw->config.assist = !want->no_assist;
    sw->config.physical_bits = physical_bits();
    sw->config.low_end = low ? ram : RAM_HOLE_START;
    sw->config.high_end = low ? 0 : RAM_HOLE_END + ram - RAM_HOLE_START;
    sw->config.pa = sw->pa;
    sw->config.policy = want->policy;
    sw->config.roots = want->roots ? want->roots : VM_ROOTS_DEFAULT;
    sw->config.flood = FLOOD;
    sw->config.pv = want->pv;
    sw->config.translate = want->translate;
    sw->config.adaptive = !want->no_adaptive;
    sw->config.trace = want->trace;
    sw->config.syscall_faults = want->syscall_faults;
    sw->config.poison = want->poison ? POISON : 0;
}

/* ---- The vCPUs' start -------------------------------------------------- */

static void fill_gdt(struct mon_cpu *cpu, uint64_t va)
{
    uint64_t tss = va + offsetof(struct mon_cpu, tss);

    for (unsigned user = 0; user < 2; user++) {
        uint64_t *gdt = cpu->gdt[user];

        gdt[MON_CS / 8] = 0x00af9b000000ffff;
        gdt[MON_SS / 8] = 0x00cf93000000ffff;
        gdt[MON_GUEST_CS / 8] = 0x00affb000000ffff;
        gdt[MON_GUEST_SS / 8] = 0x00cff3000000ffff;
        gdt[MON_TSS / 8] = (sizeof cpu->tss - 1) | (tss & 0xffffff) << 16 |
                           0x8bull << 40 | (tss >> 24 & 0xff) << 56;
        gdt[MON_TSS / 8 + 1] = tss >> 32;
    }
}

static void put64(uint32_t *at, uint64_t value)
{
    at[0] = (uint32_t)value;
    at[1] = (uint32_t)(value >> 32);
}

static void prepare_cpu(struct software *sw, unsigned id)
{
    uint64_t va = MON_BASE + MON_CPUS + id * MON_CPU_BYTES;
    struct mon_cpu *cpu = cpu_of(sw, id);

    memset(cpu, 0, sizeof *cpu);
    cpu->id = id;
    cpu->host = &sw->vm->vcpus[id];
    cpu->self = va;
    cpu->loaded_cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    cpu->stack_top = va + MON_STACK_TOP;
    put64(&cpu->tss[1], va + MON_CPU_FRAME_END);
    put64(&cpu->tss[9], va + MON_IST_TOP);
    cpu->tss[25] = sizeof cpu->tss << 16;
    fill_gdt(cpu, va);
}

/* NMI, double fault and machine check have a stack of their own: they may come
 * at any instruction. */
static void write_idt(struct software *sw)
{
    uint64_t *idt = (uint64_t *)(sw->memory + MON_IDT);

    for (unsigned vector = 0; vector < 256; vector++) {
        uint64_t stub = MON_BASE + MON_STUBS + vector * 16;
        uint64_t ist = vector == 2 || vector == 8 || vector == 18;

        idt[2 * vector] = (stub & 0xffff) | (uint64_t)MON_CS << 16 | ist << 32 |
                          0x8eull << 40 | (stub >> 16 & 0xffff) << 48;
        idt[2 * vector + 1] = stub >> 32;
    }
}

static int set_msrs(struct vcpu *vcpu, uint64_t self, struct why *why)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry[4];
    } msrs = {
        .head.nmsrs = 4,
        .entry = {
            {.index = 0xc0000081, .data = (uint64_t)MON_CS << 32},
            {.index = 0xc0000082, .data = MON_BASE + MON_SYSCALL_ENTRY},
            {.index = 0xc0000084, .data = 0x47700}, /* AC NT IOPL DF IF TF */
            {.index = 0xc0000102, .data = self},
        }};

    if (ioctl(vcpu->fd, KVM_SET_MSRS, &msrs) != 4)
        return why_set(why, EIO, "KVM refused the monitor's MSRs");
    return 0;
}

static int start_at_monitor(struct software *sw, struct vcpu *vcpu,
                            struct why *why)
{
    uint64_t va = MON_BASE + MON_CPUS + vcpu->id * MON_CPU_BYTES;
    struct kvm_regs regs = {.rip = MON_BASE + MON_BOOT,
                            .rdi = va,
                            .rsp = va + MON_STACK_TOP,
                            .rflags = 2};
    struct kvm_sregs sregs;
    int err;

    if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs))
        return why_set(why, errno, "KVM_GET_SREGS failed: %s", strerror(errno));
    sregs.cs = vcpu_segment(MON_CS, 0xb, true);
    sregs.ss = vcpu_segment(MON_SS, 0x3, false);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = (struct kvm_segment){
        .unusable = 1, .type = 3, .s = 1, .dpl = 3, .limit = 0xffffffff};
    sregs.gdt.base = va + offsetof(struct mon_cpu, gdt);
    sregs.gdt.limit = sizeof((struct mon_cpu *)0)->gdt[0] - 1;
    sregs.idt.base = MON_BASE + MON_IDT;
    sregs.idt.limit = 256 * 16 - 1;
    sregs.tr = (struct kvm_segment){
        .base = va + offsetof(struct mon_cpu, tss),
        .limit = sizeof((struct mon_cpu *)0)->tss - 1,
        .selector = MON_TSS,
        .type = 0xb,
        .present = 1,
    };
    sregs.ldt = (struct kvm_segment){.unusable = 1, .type = 2};
    sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    sregs.cr3 = sw->pa + MON_TABLES + TABLE_BOOT * PAGE_4K;
    sregs.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    sregs.efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    err = vcpu_set_state(vcpu, &sregs, &regs, why);
    return err ? err : set_msrs(vcpu, va, why);
}

/* ---- The translator ---------------------------------------------------- */

static bool is_sensitive(const uint8_t *bytes, unsigned count)
{
    struct insn insn;

    return !decode_insn(bytes, count, &insn) && insn_is_sensitive(&insn);
}

static struct bt_config bt_config(const struct software *sw, unsigned area)
{
    return (struct bt_config){
        .va = MON_AREAS + (uint64_t)area * BT_AREA,
        .area = sw->memory + sw->config.areas + (uint64_t)area * BT_AREA,
        .cache = (struct bt_cache *)(sw->memory + sw->config.caches +
                                     area * MON_CACHE_BYTES),
        .code_bytes = sw->vm->config.software->code_bytes,
        .is_sensitive = is_sensitive,
        .trace = sw->recorder ? recorder_trace(sw->recorder) : NULL,
    };
}

static int create_translators(struct software *sw, struct why *why)
{
    int err = 0;

    for (unsigned i = 0; !err && i < sw->config.cpus; i++) {
        const struct bt_config config = bt_config(sw, i);

        err = bt_create(&sw->bt[i], &config, why);
    }
    if (!err && sw->config.trace) {
        struct bt_config config = bt_config(sw, sw->config.cpus);

        config.user = true;
        err = bt_create(&sw->user_bt, &config, why);
    }
    return err;
}

static uint64_t ram_end(const struct software *sw)
{
    return sw->config.high_end ? sw->config.high_end : sw->config.low_end;
}

static int create_recorder(struct software *sw, struct why *why)
{
    if (sw->config.cpus > 1)
        return why_set(why, ENOTSUP,
                       "a trace is of one vCPU: ask for --vcpus 1");
    sw->recorder = recorder_create(sw->vm, ram_end(sw),
                                   sw->memory + sw->config.areas, MON_AREAS);
    return sw->recorder ? 0 : why_set(why, ENOMEM, "out of memory");
}

/* The guest's page around `pa`; NULL where it has no RAM. */
static const uint8_t *page_at(const struct software *sw, uint64_t pa)
{
    const uint8_t *ram = sw->vm->memory.ram;

    pa &= ~(PAGE_4K - 1);
    if (pa < sw->config.low_end)
        return ram + pa;
    if (pa >= RAM_HOLE_END && pa < sw->config.high_end)
        return ram + RAM_HOLE_START + (pa - RAM_HOLE_END);
    return NULL;
}

static int translate(struct software *sw, unsigned id,
                     const struct mon_translation *what)
{
    const uint8_t *page = page_at(sw, what->pa);
    unsigned offset = what->pa % PAGE_4K;
    const struct bt_request request = {
        .gva = what->va,
        .bytes = page + offset,
        .count = PAGE_4K - offset,
        .pa = what->pa,
        .next =
            what->next_pa == MON_NO_PAGE ? NULL : page_at(sw, what->next_pa),
        .next_pa = what->next_pa,
        .indirect = what->flag,
    };

    if (!page)
        return -EFAULT;
    return bt_translate(cpu_of(sw, id)->v.user ? sw->user_bt : sw->bt[id],
                        &request);
}

uint64_t software_rip(const struct vcpu *vcpu, const struct kvm_regs *regs)
{
    struct software *sw = vcpu->vm->software;
    const uint64_t area = sw->config.areas + (uint64_t)vcpu->id * BT_AREA;
    unsigned cache = vcpu->id;
    const struct bt_registers needed = {regs->rcx, regs->rdx, regs->rsp};
    struct bt_point point;

    if (sw->config.trace && cpu_of(sw, vcpu->id)->v.user)
        cache = sw->config.cpus;
    if (!sw->config.translate ||
        !bt_recover((struct bt_cache *)(sw->memory + sw->config.caches +
                                        cache * MON_CACHE_BYTES),
                    (struct bt_state *)(sw->memory + area + BT_STATE),
                    regs->rip, &needed, &point))
        return regs->rip;
    return point.rip;
}

static int translator(struct software *sw, unsigned id,
                      const struct mon_translation *what)
{
    if (!sw->config.translate)
        return -EINVAL;
    switch (what->op) {
    case MON_TRANSLATOR_BLOCK:
        return translate(sw, id, what);
    case MON_TRANSLATOR_FRAME:
        for (unsigned i = 0; i < sw->config.cpus; i++)
            bt_invalidate_frame(sw->bt[i], what->pa);
        if (sw->user_bt)
            bt_invalidate_frame(sw->user_bt, what->pa);
        return 0;
    case MON_TRANSLATOR_RANGE:
        bt_invalidate_range(sw->bt[id], what->va, what->bytes);
        if (sw->user_bt)
            bt_invalidate_range(sw->user_bt, what->va, what->bytes);
        return 0;
    case MON_TRANSLATOR_ADAPT:
        bt_adapt(sw->bt[id], what->va, what->flag);
        return 0;
    case MON_TRANSLATOR_DRAIN:
        return sw->recorder ? recorder_drain(sw->recorder) : -EINVAL;
    }
    return -EINVAL;
}

/* ---- The monitor in this process (assist off) -------------------------- */

static struct vcpu *vcpu_of(const struct mon_cpu *cpu)
{
    return cpu->host;
}

static void decode(struct software *sw, uint64_t pa, const uint8_t *bytes,
                   unsigned count, struct insn *insn)
{
    const struct insn *original = patch_lookup(&sw->patches, pa);

    if (count && bytes[0] == PATCH_BYTE && original) {
        *insn = *original;
        for (unsigned i = 0; i < insn->length && i < count; i++)
            insn->bytes[i] = bytes[i];
    } else if (decode_insn(bytes, count, insn)) {
        insn->length = 0;
    }
}

static int own_decode(struct mon_cpu *cpu, uint64_t pa, const uint8_t *bytes,
                      unsigned count, struct insn *insn)
{
    decode(vcpu_of(cpu)->vm->software, pa, bytes, count, insn);
    return insn->length ? 0 : -ENODATA;
}

static uint32_t own_port(struct mon_cpu *cpu, uint16_t port, unsigned bytes,
                         bool out, uint32_t value)
{
    vcpu_port(vcpu_of(cpu), port, bytes, out, (uint8_t *)&value);
    return value;
}

static uint64_t own_get_base(struct mon_cpu *cpu, unsigned which)
{
    struct kvm_sregs sregs = {0};

    ioctl(vcpu_of(cpu)->fd, KVM_GET_SREGS, &sregs);
    return which == INSN_FS ? sregs.fs.base : sregs.gs.base;
}

static void own_set_base(struct mon_cpu *cpu, unsigned which, uint64_t base)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry[1];
    } msrs = {.head.nmsrs = 1,
              .entry = {{.index = which == INSN_FS ? 0xc0000100 : 0xc0000101,
                         .data = base}}};

    ioctl(vcpu_of(cpu)->fd, KVM_SET_MSRS, &msrs);
}

static uint16_t own_get_selector(struct mon_cpu *cpu, unsigned which)
{
    struct kvm_sregs sregs = {0};

    ioctl(vcpu_of(cpu)->fd, KVM_GET_SREGS, &sregs);
    return which == INSN_ES   ? sregs.es.selector
           : which == INSN_DS ? sregs.ds.selector
           : which == INSN_FS ? sregs.fs.selector
                              : sregs.gs.selector;
}

static void own_set_selector(struct mon_cpu *cpu, unsigned which,
                             uint16_t selector)
{
    uint64_t d = selector & ~3u ? cpu->gdt[0][selector >> 3] : 0;
    uint32_t limit = (uint32_t)((d & 0xffff) | (d >> 48 & 15) << 16);
    const struct kvm_segment loaded = {
        .base = (d >> 16 & 0xffffff) | (d >> 56) << 24,
        .limit = d >> 55 & 1 ? limit << 12 | 0xfff : limit,
        .selector = selector,
        .type = d >> 40 & 15,
        .present = d >> 47 & 1,
        .dpl = 3,
        .s = 1,
        .db = d >> 54 & 1,
        .g = d >> 55 & 1,
        .unusable = !d,
    };
    struct kvm_sregs sregs;

    if (ioctl(vcpu_of(cpu)->fd, KVM_GET_SREGS, &sregs))
        return;
    *(which == INSN_ES   ? &sregs.es
      : which == INSN_DS ? &sregs.ds
      : which == INSN_FS ? &sregs.fs
                         : &sregs.gs) = loaded;
    ioctl(vcpu_of(cpu)->fd, KVM_SET_SREGS, &sregs);
}

static void own_kick(struct mon_cpu *cpu)
{
    struct vcpu *vcpu = vcpu_of(cpu);
    struct kvm_msi msi = {
        .address_lo = 0xfee00000u | cpu->id << 12,
        .data = MON_VECTOR_KICK,
    };

    ioctl(vcpu->vm->fd, KVM_SIGNAL_MSI, &msi);
}

static void own_relax(struct mon_cpu *cpu)
{
    (void)cpu;
    __builtin_ia32_pause();
}

static void own_wait(struct mon_cpu *cpu)
{
    const struct timespec tick = {.tv_nsec = 20000};

    if (vm_has_ended(vcpu_of(cpu)->vm))
        mon_stop(cpu);
    nanosleep(&tick, NULL);
}

static uint64_t own_tsc(void)
{
    return __builtin_ia32_rdtsc();
}

static int own_translator(struct mon_cpu *cpu)
{
    const struct vcpu *vcpu = vcpu_of(cpu);

    return translator(vcpu->vm->software, vcpu->id, &cpu->call_translation);
}

static const struct mon_ops own_ops = {
    .decode = own_decode,
    .port = own_port,
    .get_base = own_get_base,
    .set_base = own_set_base,
    .get_selector = own_get_selector,
    .set_selector = own_set_selector,
    .kick = own_kick,
    .wait = own_wait,
    .relax = own_relax,
    .tsc = own_tsc,
    .translator = own_translator,
};

static int start_own(struct software *sw, struct why *why)
{
    uint8_t *ram = sw->vm->memory.ram;
    int err = mon_init(&sw->own, &sw->config, &own_ops, ram,
                       ram + RAM_HOLE_START, sw->memory);

    if (err)
        return why_set(why, -err, "the shadow MMU cannot be set up");
    sw->mon = &sw->own;
    for (unsigned i = 0; i < sw->config.cpus; i++)
        mon_start_cpu(sw->mon, cpu_of(sw, i));
    return 0;
}

/* ---- The monitor's calls ----------------------------------------------- */

static void end(struct vcpu *vcpu, const struct mon_cpu *cpu)
{
    struct vm *vm = vcpu->vm;
    uint64_t a = cpu->end_a, b = cpu->end_b;

    switch (cpu->end) {
    case MON_END_TRIPLE_FAULT:
        vm_end_once(vm, VM_END_SHUTDOWN,
                    "the guest triple-faulted at rip 0x%" PRIx64
                    " (last exception %" PRIu64 ")",
                    a, b);
        break;
    case MON_END_HALTED:
        vm_end_once(vm, VM_END_HALT, "the guest halted at rip 0x%" PRIx64,
                    cpu->frame.rip);
        break;
    case MON_END_NO_MEMORY:
        vm_end_once(vm, VM_END_BAD_ACCESS,
                    "the guest accessed guest physical address 0x%" PRIx64
                    ", where nothing is, at rip 0x%" PRIx64,
                    a, cpu->frame.rip);
        break;
    case MON_END_RESERVED:
        vm_end_once(vm, VM_END_MONITOR,
                    "the guest uses address 0x%" PRIx64
                    ", which the monitor keeps for itself (PML4 entry %d)",
                    a, MON_SLOT);
        break;
    case MON_END_INSTRUCTION:
        vm_end_once(vm, VM_END_MONITOR,
                    "the guest kernel's instruction at rip 0x%" PRIx64
                    " is one the monitor does not emulate",
                    a);
        break;
    case MON_END_PAGING:
        vm_end_once(vm, VM_END_MONITOR,
                    "the guest wants paging that the monitor does not have: "
                    "CR4 0x%" PRIx64 ", CR0 0x%" PRIx64,
                    a, b);
        break;
    case MON_END_NO_PROGRESS:
        vm_end_once(vm, VM_END_MONITOR,
                    "the guest makes no progress at rip 0x%" PRIx64
                    ": it faults at 0x%" PRIx64 " again and again",
                    a, b);
        break;
    case MON_END_SEGMENT:
        vm_end_once(vm, VM_END_MONITOR,
                    "the guest uses selector 0x%" PRIx64
                    ", which the monitor does not have: only flat 64-bit "
                    "segments below 0x%x",
                    a, MON_GDT_GUEST * 8);
        break;
    case MON_END_TRACE:
        vm_end_once(vm, VM_END_MONITOR,
                    "the guest's trace can't be written, or the guest wrote "
                    "to the log of its accesses, which is at 0x%" PRIx64,
                    (uint64_t)MON_AREAS + BT_LOG);
        break;
    case MON_END_OWN_FAULT:
        vm_end_once(vm, VM_END_MONITOR,
                    "the monitor itself took exception %" PRIu64
                    " at 0x%" PRIx64 " (cs 0x%" PRIx64 " rsp 0x%" PRIx64
                    " rflags 0x%" PRIx64 "): please report this",
                    a, b, cpu->own_fault.cs, cpu->own_fault.rsp,
                    cpu->own_fault.rflags);
        break;
    case MON_END_NONE:
        vm_end_once(vm, VM_END_MONITOR, "the monitor could not start");
        break;
    }
}

void software_call(struct vcpu *vcpu, uint32_t call)
{
    struct software *sw = vcpu->vm->software;
    struct mon_cpu *cpu = cpu_of(sw, vcpu->id);

    switch (call) {
    case MON_CALL_TRAP:
        if (sw->mon == &sw->own)
            mon_trap(sw->mon, cpu);
        break;
    case MON_CALL_DECODE:
        decode(sw, cpu->call_pa, cpu->call_bytes,
               cpu->call_count <= INSN_BYTES_MAX ? cpu->call_count : 0,
               &cpu->call_insn);
        break;
    case MON_CALL_TRANSLATOR:
        cpu->call_error = translator(sw, vcpu->id, &cpu->call_translation);
        break;
    case MON_CALL_END:
        end(vcpu, cpu);
        break;
    }
}

/* ---- Traces ------------------------------------------------------------ */

void software_mark(struct vm *vm, enum wl_phase phase, bool begin)
{
    if (vm->software->recorder)
        recorder_mark(vm->software->recorder, phase, begin);
}

void software_end_trace(struct vm *vm)
{
    if (vm->software && vm->software->recorder &&
        recorder_end(vm->software->recorder) && vm->end == VM_END_EXIT) {
        vm->end = VM_END_ERROR;
        why_set(&vm->end_why, EIO, "the trace can't be written");
    }
}

void vm_trace_guest(const struct vm *vm, struct event_guest *guest)
{
    *guest = (struct event_guest){
        .levels = 4,
        .physical_bits = vm->software->config.physical_bits,
        .pages_1g = true,
        .ram_bytes = ram_end(vm->software),
    };
}

/* ---- What was counted ------------------------------------------------- */

uint64_t vm_monitor_traps(const struct vm *vm, unsigned reason)
{
    uint64_t count = 0;

    if (!vm->software || reason >= MON_REASONS)
        return 0;
    for (unsigned i = 0; i < vm->config.vcpus; i++)
        count += __atomic_load_n(&cpu_of(vm->software, i)->traps[reason],
                                 __ATOMIC_RELAXED);
    return count;
}

/* The names of the CPU's exceptions (SDM vol. 3A, table 6-1). */
static const char *exception_name(unsigned vector)
{
    static const char *const names[32] = {
        [0] = "de",  [1] = "db",  [3] = "bp",  [4] = "of",  [5] = "br",
        [6] = "ud",  [7] = "nm",  [8] = "df",  [10] = "ts", [11] = "np",
        [12] = "ss", [13] = "gp", [14] = "pf", [16] = "mf", [17] = "ac",
        [18] = "mc", [19] = "xm", [21] = "cp",
    };

    return names[vector];
}

const char *vm_trap_name(unsigned reason)
{
    static const char *const names[] = {
        [MON_HIDDEN_FAULT - INSN_OPS] = "hidden_fault",
        [MON_TRUE_FAULT - INSN_OPS] = "true_fault",
        [MON_TRACED_WRITE - INSN_OPS] = "traced_write",
        [MON_UNSHADOWED - INSN_OPS] = "unshadowed",
        [MON_SYSCALL - INSN_OPS] = "syscall",
        [MON_HYPERCALL - INSN_OPS] = "hypercall",
        [MON_KICKED - INSN_OPS] = "kicked",
        [MON_POISONED - INSN_OPS] = "poisoned",
        [MON_BT_EXIT - INSN_OPS] = "bt_exit",
        [MON_BT_MISS - INSN_OPS] = "bt_miss",
        [MON_STORE_CALL_OUT - INSN_OPS] = "store_call_out",
        [MON_CODE_WRITE - INSN_OPS] = "code_write",
    };

    if (reason >= MON_REASONS)
        return NULL;
    if (reason >= MON_EXCEPTION)
        return exception_name(reason - MON_EXCEPTION);
    return reason < INSN_OPS ? insn_op_name(reason) : names[reason - INSN_OPS];
}

bool vm_counts_tlb_misses(const struct vm *vm)
{
    return vm->software && vm->software->config.poison;
}

/* The monitor's own pointers are addresses in its slot. */
const struct shadow_stats *vm_shadow_stats(const struct vm *vm)
{
    const struct software *sw = vm->software;
    const struct shadow *shadow = sw ? sw->mon->shadow : NULL;

    if (!shadow)
        return NULL;
    if (sw->mon != &sw->own)
        shadow = (const void *)(sw->memory + ((uint64_t)shadow - MON_BASE));
    return shadow_stats(shadow);
}

static void add_stats(struct bt_stats *sum, const struct bt_stats *part)
{
    uint64_t *to = (uint64_t *)sum;
    const uint64_t *from = (const uint64_t *)part;

    _Static_assert(sizeof *sum % sizeof *to == 0, "nothing but counts");
    for (size_t i = 0; i < sizeof *sum / sizeof *to; i++)
        to[i] += from[i];
}

const struct bt_stats *vm_bt_stats(const struct vm *vm)
{
    struct software *sw = vm->software;

    if (!sw || !sw->config.translate)
        return NULL;
    sw->bt_total = (struct bt_stats){0};
    for (unsigned i = 0; i < sw->config.cpus; i++)
        add_stats(&sw->bt_total, bt_stats(sw->bt[i]));
    return &sw->bt_total;
}

/* ---- Life -------------------------------------------------------------- */

int software_create(struct vm *vm, struct why *why)
{
    struct software *sw = calloc(1, sizeof *sw);
    int err;

    if (!sw)
        return why_set(why, ENOMEM, "out of memory");
    sw->vm = vm;
    vm->software = sw;
    err = create_memory(sw, why);
    if (err)
        return err;
    configure(sw);
    if (sw->config.poison && sw->config.physical_bits > 51)
        return why_set(why, ENOTSUP,
                       "this CPU has no reserved address bits, which counting "
                       "TLB misses needs; leave out --tlb-misses");
    write_tables(sw);
    write_idt(sw);
    for (unsigned i = 0; i < vm->config.vcpus; i++)
        prepare_cpu(sw, i);
    sw->mon = (struct mon *)(sw->memory + MON_SHARED);
    if (sw->config.trace)
        err = create_recorder(sw, why);
    return err ? err : sw->config.translate ? create_translators(sw, why) : 0;
}

int software_load(struct vm *vm, const void *image, size_t bytes,
                  uint64_t entry, struct why *why)
{
    struct software *sw = vm->software;
    int err = vm->config.software->unpatched || sw->config.translate
                  ? 0
                  : patch_find(image, bytes, &sw->patches, why);

    if (err)
        return err;
    patch_apply(&sw->patches, vm->memory.ram, sw->config.low_end);
    sw->config.entry = entry;
    sw->config.cr3 = GPA_PAGE_TABLES;
    sw->config.gdt = GPA_GDT;
    sw->config.start_info = GPA_START_INFO;
    if (sw->recorder)
        recorder_begin(sw->recorder, sw->config.cr3);
    memcpy(sw->memory + MON_CONFIG, &sw->config, sizeof sw->config);
    if (!sw->config.assist)
        err = start_own(sw, why);
    for (unsigned i = 0; !err && i < vm->config.vcpus; i++)
        err = start_at_monitor(sw, &vm->vcpus[i], why);
    return err;
}

void software_destroy(struct software *sw)
{
    if (!sw)
        return;
    patch_free(&sw->patches);
    for (unsigned i = 0; i < MON_CPUS_MAX; i++)
        bt_destroy(sw->bt[i]);
    bt_destroy(sw->user_bt);
    recorder_destroy(sw->recorder);
    if (sw->mapping)
        munmap(sw->mapping, sw->bytes + PAGE_2M);
    free(sw);
}
