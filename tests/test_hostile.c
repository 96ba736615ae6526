/*
 * Guests that mean harm, under the software VMM: each ends with its own
 * exceptions or with a sentence, and never with the monitor's or the VMM's
 * fault. The hand-written ones run on this machine's KVM; random ones only in
 * the lab, where a broken host kernel costs nothing.
 */
#include "ept/kvm_switch.h"
#include "tests/images.h"
#include "tests/test.h"
#include "vmm/vm.h"
#include "workloads/abi.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* HOSTILE_PROGRAMS asks for another number. */
#define PROGRAMS 2000

extern const uint8_t hostile_guest[], hostile_guest_seed[], hostile_guest_end[];

struct outcome {
    int err;
    enum vm_end end;
    struct why why;
    unsigned marks;
};

static void on_mark(struct vm *vm, enum wl_phase phase, bool begin, void *arg)
{
    struct outcome *o = arg;

    (void)vm;
    (void)phase;
    o->marks += begin;
}

static bool under_pvm(void)
{
    struct kvm_state state;

    kvm_state_read(&kvm_host_linux, &state);
    return state.flavour == KVM_FLAVOUR_PVM;
}

static struct outcome run(const void *code, size_t bytes,
                          struct vm_software software, unsigned time_limit_s)
{
    struct test_image image = test_image(code, bytes);
    struct guest_config config = {.operations = 1};
    struct outcome o = {.err = -1};
    struct vm_config vm_config = {
        .ram_bytes = VM_RAM_MIN,
        .vcpus = 1,
        .time_limit_s = time_limit_s,
        .software = &software,
        .hooks = {.mark = on_mark},
        .arg = &o,
    };
    struct vm *vm = NULL;

    software.unpatched = true;
    software.syscall_faults = under_pvm();
    o.err = vm_create(&vm, &vm_config, &o.why);
    if (!o.err)
        o.err = vm_load(vm, &image, sizeof image, &config, &o.why);
    if (!o.err) {
        o.err = vm_run(vm, &o.why);
        o.end = vm_end(vm);
    }
    vm_destroy(vm);
    return o;
}

/* ---- One at a time ----------------------------------------------------- */

#define EXIT "\xe7\xf4\xeb\xfe" /* out %eax, $0xf4; jmp . */

static const struct {
    const char *name;
    const char *code;
    size_t bytes;
    enum vm_end end;
    const char *text;
    bool pv;
} guests[] = {
#define GUEST(name, code, end, text, pv)            \
    {                                               \
        name, code, sizeof(code) - 1, end, text, pv \
    }
    GUEST("reads the monitor's text",
          /* movabs $0xfffffd8000000000, %rax; mov (%rax), %al */
          "\x48\xb8\0\0\0\0\x80\xfd\xff\xff\x8a\x00" EXIT, VM_END_SHUTDOWN,
          "triple-faulted", false),
    GUEST("writes to the monitor's state",
          "\x48\xb8\0\0\x12\0\x80\xfd\xff\xff\x88\x00" EXIT, VM_END_SHUTDOWN,
          "triple-faulted", false),
    GUEST("writes through the monitor's window on RAM",
          "\x48\xb8\0\0\0\0\xc0\xfd\xff\xff\x88\x00" EXIT, VM_END_SHUTDOWN,
          "triple-faulted", false),
    GUEST("jumps into the monitor",
          "\x48\xb8\0\x30\0\0\x80\xfd\xff\xff\xff\xe0" EXIT, VM_END_SHUTDOWN,
          "triple-faulted", false),
    GUEST("maps the monitor's slot",
          /* movq $0x2003, 0x1000 + 507 * 8; and reads there */
          "\x48\xc7\x04\x25\xd8\x1f\0\0\x03\x20\0\0"
          "\x48\xb8\0\0\0\0\x80\xfd\xff\xff\x8a\x00" EXIT,
          VM_END_MONITOR, "keeps for itself", false),
    GUEST("tables outside RAM",
          /* movq $0x7ffff003, 0x1008; mov 1 << 39, %al */
          "\x48\xc7\x04\x25\x08\x10\0\0\x03\xf0\xff\x7f"
          "\x48\xb8\0\0\0\0\x80\0\0\0\x8a\x00" EXIT,
          VM_END_BAD_ACCESS, "where nothing is", false),
    GUEST("the monitor's memory as its table",
          /* movabs $0x100220003, %rax; mov %rax, 0x1008; ... */
          "\x48\xb8\x03\0\x22\0\x01\0\0\0\x48\x89\x04\x25\x08\x10\0\0"
          "\x48\xb8\0\0\0\0\x80\0\0\0\x8a\x00" EXIT,
          VM_END_BAD_ACCESS, "where nothing is", false),
    GUEST("a root that points at itself",
          /* movq $0x1003, 0x1028; movabs the PML4's own address by it, %rax;
           * movq $0x2003, 8(%rax); mov (%rax), %rbx */
          "\x48\xc7\x04\x25\x28\x10\0\0\x03\x10\0\0"
          "\x48\xb8\0\x50\xa0\x40\x81\x02\0\0"
          "\x48\xc7\x40\x08\x03\x20\0\0\x48\x8b\x18" EXIT,
          VM_END_EXIT, "", false),
    GUEST("reserved bits",
          "\x48\xb8\x03\x20\0\0\0\0\x08\0\x48\x89\x04\x25\x08\x10\0\0"
          "\x48\xb8\0\0\0\0\x80\0\0\0\x8a\x00" EXIT,
          VM_END_SHUTDOWN, "triple-faulted", false),
    GUEST("a stack nowhere", "\x48\xbc\0\0\0\0\0\0\0\x80\x0f\x0b",
          VM_END_SHUTDOWN, "triple-faulted", false),
    GUEST("an SSE store to its root",
          /* movups %xmm0, 0x1010 */
          "\x0f\x11\x04\x25\x10\x10\0\0" EXIT, VM_END_MONITOR,
          "does not emulate", false),
    GUEST("calls the VMM as the monitor does",
          /* mov $0x5f4, %edx; mov $2, %eax; out; in; cmp $-1; jne . */
          "\xba\xf4\x05\0\0\xb8\x02\0\0\0\xef\xed\x83\xf8\xff\x75\xfe" EXIT,
          VM_END_EXIT, "", false),
    GUEST("halts for good", "\xfa\xf4", VM_END_HALT, "halted", false),
    GUEST("far from 64 bits",
          /* pushq $0x18; push $0x100000; lretq: no such segment */
          "\x6a\x18\x68\0\0\x10\0\x48\xcb", VM_END_SHUTDOWN, "triple-faulted",
          false),
    GUEST("every hypercall with bad arguments",
          /* xor %ebx, %ebx; again: mov %ebx, %eax; movabs $-9, %rdi;
           * mov %rdi, %rsi; syscall; inc %ebx; cmp $32, %ebx; jne again */
          "\x31\xdb\x89\xd8\x48\xc7\xc7\xf7\xff\xff\xff\x48\x89\xfe\x0f\x05"
          "\xff\xc3\x83\xfb\x01\x74\xed" EXIT,
          VM_END_EXIT, "", true),
    GUEST("starts on tables that are none",
          /* mov $0x108000, %edi; movq $0x100000, (%rdi); mov $1, %eax; syscall;
           * test %rax, %rax; jns . */
          "\xbf\0\x80\x10\0\x48\xc7\x07\0\0\x10\0\xb8\x01\0\0\0\x0f\x05"
          "\x48\x85\xc0\x79\xfe" EXIT,
          VM_END_EXIT, "", true),
#undef GUEST
};

static bool have_kvm(void)
{
    if (!access("/dev/kvm", R_OK | W_OK))
        return true;
    test_skip("no access to /dev/kvm: load kvm, join the group kvm");
    return false;
}

static void check_guest(size_t i, struct vm_software software)
{
    struct outcome o = run(guests[i].code, guests[i].bytes, software, 60);

    if (o.end != guests[i].end)
        printf("\n    %s%s: end %d, %s\n", guests[i].name,
               software.translate ? ", translated" : "", o.end, o.why.text);
    CU_ASSERT_EQUAL(o.end, guests[i].end);
    if (o.err)
        CU_ASSERT_PTR_NOT_NULL(strstr(o.why.text, guests[i].text));
}

static void by_hand(void)
{
    if (!have_kvm())
        return;
    for (size_t i = 0; i < sizeof guests / sizeof guests[0]; i++) {
        check_guest(i, (struct vm_software){.pv = guests[i].pv});
        if (!guests[i].pv)
            check_guest(i, (struct vm_software){.translate = true});
    }
}

/* ---- Very many --------------------------------------------------------- */

/* What a guest can bring about: anything but our own fault. */
static bool is_guests_doing(const struct outcome *o)
{
    return o->end == VM_END_EXIT || o->end == VM_END_SHUTDOWN ||
           o->end == VM_END_BAD_ACCESS || o->end == VM_END_TIMEOUT ||
           o->end == VM_END_HALT ||
           (o->end == VM_END_MONITOR && !strstr(o->why.text, "monitor itself"));
}

static void random_programs(void)
{
    const char *asked = getenv("HOSTILE_PROGRAMS");
    unsigned wanted = asked ? (unsigned)atoi(asked) : PROGRAMS;
    size_t bytes = (size_t)(hostile_guest_end - hostile_guest);
    unsigned done = 0, vms = 0, timeouts = 0;
    uint8_t code[TEST_IMAGE_MAX];

    if (!getenv("MEMVIRT_LAB")) {
        test_skip("random guests run in the lab only: scripts/lab/lab -- "
                  "build/memvirt-tests hostile");
        return;
    }
    CU_ASSERT_FATAL(bytes <= sizeof code);
    memcpy(code, hostile_guest, bytes);
    while (done < wanted) {
        uint64_t seed = 0x9e3779b97f4a7c15ull * ++vms;
        struct outcome o;

        memcpy(code + (hostile_guest_seed - hostile_guest), &seed, sizeof seed);
        o = run(code, bytes,
                (struct vm_software){.policy = vms % 3,
                                     .pv = vms % 4 == 3,
                                     .translate = vms % 4 == 1},
                2);
        done += o.marks;
        timeouts += o.end == VM_END_TIMEOUT;
        if (getenv("HOSTILE_VERBOSE"))
            printf("\n    %u: %s", o.marks, o.why.text);
        CU_ASSERT(is_guests_doing(&o));
        if (!is_guests_doing(&o))
            printf("\n    seed %#lx, program %u: %s\n", (unsigned long)seed,
                   o.marks, o.why.text);
        CU_ASSERT_FATAL(o.marks > 0);
    }
    printf("(%u programs in %u VMs, %u stopped by the clock) ", done, vms,
           timeouts);
}

TEST_SUITE(hostile, {"guests that mean harm, one by one", by_hand},
           {"random guest programs", random_programs});
