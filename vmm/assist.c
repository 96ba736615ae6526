/* The monitor in the VMM's process (assist off): what its core asks of its
 * surroundings, by ioctls. */
#include "vmm/software_private.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <time.h>

static struct vcpu *vcpu_of(const struct mon_cpu *cpu)
{
    return cpu->host;
}

static int own_decode(struct mon_cpu *cpu, uint64_t pa, const uint8_t *bytes,
                      unsigned count, struct insn *insn)
{
    software_decode(vcpu_of(cpu)->vm->software, pa, bytes, count, insn);
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

    return translation_answer(vcpu->vm->software, vcpu->id,
                              &cpu->call_translation);
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

int assist_start(struct software *sw, struct why *why)
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
