#include "vmm/decode.h"
#include "vmm/recorder.h"
#include "vmm/software_private.h"

#include <cpuid.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define SLOT_MONITOR 2
/* Reserved in a leaf where MAXPHYADDR is below 52. */
#define POISON (1ull << 51)
#define FLOOD  3

extern const uint8_t monitor_image[], monitor_image_end[];

/* ---- The monitor's memory and page tables ------------------------------ */

/* Tables for all of RAM twice (as the kernel and as user code see it), and for
 * the tables above. */
static unsigned arena_tables(const struct vm *vm)
{
    uint64_t tables = 512 + 3 * (vm->memory.ram_bytes / PAGE_2M);

    return tables < SHADOW_PAGES_MAX ? (unsigned)tables : SHADOW_PAGES_MAX;
}

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

static void write_tables(struct software *sw)
{
    table(sw, TABLE_BOOT)[MON_SLOT] = table_entry(sw, TABLE_PDPT);
    map_own_memory(sw);
    map_window(sw);
    if (sw->config.translate)
        translation_map(sw);
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
        translation_place(sw);
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

/* ---- Decoding ----------------------------------------------------------- */

void software_decode(struct software *sw, uint64_t pa, const uint8_t *bytes,
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
        software_decode(sw, cpu->call_pa, cpu->call_bytes,
                        cpu->call_count <= INSN_BYTES_MAX ? cpu->call_count : 0,
                        &cpu->call_insn);
        break;
    case MON_CALL_TRANSLATOR:
        cpu->call_error =
            translation_answer(sw, vcpu->id, &cpu->call_translation);
        break;
    case MON_CALL_END:
        end(vcpu, cpu);
        break;
    }
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
    return sw->config.translate ? translation_create(sw, why) : 0;
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
        err = assist_start(sw, why);
    for (unsigned i = 0; !err && i < vm->config.vcpus; i++)
        err = start_at_monitor(sw, &vm->vcpus[i], why);
    return err;
}

void software_destroy(struct software *sw)
{
    if (!sw)
        return;
    patch_free(&sw->patches);
    translation_destroy(sw);
    if (sw->mapping)
        munmap(sw->mapping, sw->bytes + PAGE_2M);
    free(sw);
}
