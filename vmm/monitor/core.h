/* What the files of the monitor's core share. */
#ifndef VMM_MONITOR_CORE_H
#define VMM_MONITOR_CORE_H

#include "vmm/monitor/monitor.h"

#define RFLAGS_CF    (1ull << 0)
#define RFLAGS_FIXED (1ull << 1)
#define RFLAGS_PF    (1ull << 2)
#define RFLAGS_AF    (1ull << 4)
#define RFLAGS_ZF    (1ull << 6)
#define RFLAGS_SF    (1ull << 7)
#define RFLAGS_TF    (1ull << 8)
#define RFLAGS_IF    (1ull << 9)
#define RFLAGS_DF    (1ull << 10)
#define RFLAGS_OF    (1ull << 11)
#define RFLAGS_IOPL  (3ull << 12)
#define RFLAGS_NT    (1ull << 14)
#define RFLAGS_RF    (1ull << 16)
#define RFLAGS_VM    (1ull << 17)
#define RFLAGS_AC    (1ull << 18)
#define RFLAGS_VIF   (1ull << 19)
#define RFLAGS_VIP   (1ull << 20)
#define RFLAGS_ID    (1ull << 21)
#define RFLAGS_ARITHMETIC \
    (RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF)
/* Kept in mon_virtual.flags: CPL 3 can't have them its way. */
#define RFLAGS_VIRTUAL (RFLAGS_IF | RFLAGS_IOPL | RFLAGS_NT)
/* What POPF and IRET can change at all in 64-bit mode. */
#define RFLAGS_LOADABLE                                                    \
    (RFLAGS_ARITHMETIC | RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL | \
     RFLAGS_NT | RFLAGS_AC | RFLAGS_ID)

enum {
    VECTOR_DE = 0,
    VECTOR_DB = 1,
    VECTOR_BP = 3,
    VECTOR_UD = 6,
    VECTOR_DF = 8,
    VECTOR_TS = 10,
    VECTOR_NP = 11,
    VECTOR_SS = 12,
    VECTOR_GP = 13,
    VECTOR_PF = 14,
};

/* Most functions of the core return 0, or RAISED: an exception is pending in
 * cpu->exception, or the run has ended. JUMPED: done, and RIP is set. */
#define RAISED (-1)
#define JUMPED 1

/* trap.c */
void mon_lock(struct mon *m, struct mon_cpu *cpu);
void mon_unlock(struct mon *m);
int mon_raise(struct mon_cpu *cpu, uint8_t vector);
int mon_raise_error(struct mon_cpu *cpu, uint8_t vector, uint32_t error);
int mon_end(struct mon_cpu *cpu, enum mon_end end, uint64_t a, uint64_t b);
/* The guest's CPL, control registers or RFLAGS.AC changed: whose accesses
 * come next. */
int mon_update_mode(struct mon *m, struct mon_cpu *cpu);
uint64_t mon_rflags(const struct mon_cpu *cpu);
void mon_set_rflags(struct mon *m, struct mon_cpu *cpu, uint64_t flags);
struct mmu_state mon_mmu_state(const struct mon *m, const struct mon_cpu *cpu);

/* memory.c: guest memory, with the rights of the virtual CPL; `implicit` ones
 * are the kernel's. */
/* The guest's tables, for a walker. */
struct mmu_memory mon_tables(struct mon *m);
void *mon_ram(const struct mon *m, uint64_t pa, uint64_t bytes);
/* What the guest gets for an access that the shadow MMU has no way for. */
int mon_no_access(struct mon_cpu *cpu, uint64_t va, enum shadow_outcome outcome,
                  const struct shadow_fault *fault);
int mon_read(struct mon *m, struct mon_cpu *cpu, uint64_t va, void *to,
             unsigned bytes);
int mon_write(struct mon *m, struct mon_cpu *cpu, uint64_t va, const void *from,
              unsigned bytes);
/* Nothing is written, but a write of so many bytes would not fault. */
int mon_probe_write(struct mon *m, struct mon_cpu *cpu, uint64_t va,
                    unsigned bytes);
/* Where a fetch at `va` goes. */
int mon_locate_fetch(struct mon *m, struct mon_cpu *cpu, uint64_t va,
                     uint64_t *pa);
/* The instruction at RIP; it stays until the next call. */
int mon_fetch(struct mon *m, struct mon_cpu *cpu, const struct insn **insn);
/* Of this vCPU's TLB, for the way back into the guest; and every TLB, now. */
void mon_flush_page(void *arg, uint64_t va);
void mon_flush_own(void *arg);
void mon_flush_all(void *arg);
/* All vCPUs but this one out of the guest, until they are let go. */
void mon_hold_others(struct mon *m);
void mon_let_go(struct mon *m);
int mon_memory_init(struct mon *m, uint8_t *arena);

/* event.c */
enum mon_event {
    MON_EVENT_FAULT,    /* an exception, or an interrupt from outside */
    MON_EVENT_SOFTWARE, /* INT n, INT3 */
};
void mon_deliver_exception(struct mon *m, struct mon_cpu *cpu);
int mon_deliver(struct mon *m, struct mon_cpu *cpu, uint8_t vector,
                bool has_error, uint32_t error, enum mon_event event);
int mon_syscall(struct mon *m, struct mon_cpu *cpu);

/* segment.c */
int mon_load_gdt(struct mon *m, struct mon_cpu *cpu);
/* After a fault on a selector: true when the guest's descriptor is another
 * than the one the CPU saw, which it now sees. */
bool mon_refresh_gdt(struct mon *m, struct mon_cpu *cpu, uint16_t selector);
void mon_set_cs_ss(struct mon_cpu *cpu, uint16_t cs, uint16_t ss);
int mon_enter_user(struct mon *m, struct mon_cpu *cpu, uint16_t cs,
                   uint16_t ss);
int mon_emulate_segment(struct mon *m, struct mon_cpu *cpu,
                        const struct insn *insn);
int mon_iret(struct mon *m, struct mon_cpu *cpu, unsigned size);

/* The checks of IRET: to this CPL's or an outer one's code. */
int mon_check_return(struct mon *m, struct mon_cpu *cpu, uint16_t cs,
                     uint16_t ss, uint64_t rip);

/* pv.c */
int mon_direct_locate(struct mon *m, struct mon_cpu *cpu, uint64_t va,
                      enum mmu_access access, uint64_t *pa);
void mon_direct_enter(struct mon *m, struct mon_cpu *cpu);
int mon_direct_fault(struct mon_cpu *cpu);
int mon_direct_syscall(struct mon *m, struct mon_cpu *cpu);
int mon_hypercall(struct mon *m, struct mon_cpu *cpu);
void mon_direct_init(struct mon *m, void *frames);

/* translated.c: where config.translate is set */
enum mon_came {
    MON_CAME_TRAP,   /* the guest's state is in the frame: handle the trap */
    MON_CAME_DONE,   /* and it was translated code's own: done */
    MON_CAME_WITHIN, /* the frame stays: an instruction is half done */
};
/* `syscall`: the address is in RCX. */
enum mon_came mon_leave_translated(struct mon *m, struct mon_cpu *cpu,
                                   bool syscall);
int mon_enter_translated(struct mon *m, struct mon_cpu *cpu);
/* The guest flushed its TLB, or one address of it. */
void mon_flushed(struct mon_cpu *cpu);
void mon_flushed_page(struct mon_cpu *cpu, uint64_t va);
/* An instruction at RIP faulted on a traced table. */
void mon_traced_write(struct mon *m, struct mon_cpu *cpu);
/* Was code there, in one of the frames there, translated? */
bool mon_is_code(const struct mon *m, uint64_t pa);
bool mon_has_code(const struct mon *m, uint64_t pa, uint64_t bytes);
/* It is written: the translations go, and the frame can be written. */
void mon_code_written(struct mon *m, struct mon_cpu *cpu, uint64_t pa);
bool mon_writes_own_code(struct mon *m, struct mon_cpu *cpu, uint64_t pa);
void mon_translated_init(struct mon *m, uint8_t *memory);

/* log.c: where config.trace is set: what the monitor does in the guest's stead,
 * in the order of the log (bt/trace.h) */
/* A trap left translated code at `code`; the guest's state is in the frame. */
void mon_log_stop(struct mon *m, struct mon_cpu *cpu, uint64_t code,
                  bool called_out);
/* Was it that the log is full? */
bool mon_log_is_full(const struct mon_cpu *cpu);
void mon_log_drain(struct mon *m, struct mon_cpu *cpu);
/* An access that was done, in one page, with the rights of the virtual CPL. */
void mon_log_access(struct mon *m, struct mon_cpu *cpu, uint64_t va,
                    enum mmu_access access, unsigned bytes);
/* A write, whose bytes are at `pa` now. */
void mon_log_write(struct mon *m, struct mon_cpu *cpu, uint64_t va, uint64_t pa,
                   unsigned bytes);
void mon_log_fault(struct mon *m, struct mon_cpu *cpu, uint64_t va,
                   uint32_t error);
void mon_log_invlpg(struct mon *m, struct mon_cpu *cpu, uint64_t va);
void mon_log_cr3(struct mon *m, struct mon_cpu *cpu);
/* FS's and GS's bases, which may have changed. */
void mon_log_bases(struct mon *m, struct mon_cpu *cpu);

/* emulate.c */
int mon_emulate(struct mon *m, struct mon_cpu *cpu, const struct insn *insn);
uint64_t mon_get_reg(const struct mon_cpu *cpu, unsigned reg, unsigned size);
void mon_set_reg(struct mon_cpu *cpu, unsigned reg, unsigned size,
                 uint64_t value);
uint64_t mon_address(struct mon *m, struct mon_cpu *cpu,
                     const struct insn *insn);
int mon_get_operand(struct mon *m, struct mon_cpu *cpu, const struct insn *insn,
                    unsigned n, uint64_t *value);
int mon_set_operand(struct mon *m, struct mon_cpu *cpu, const struct insn *insn,
                    unsigned n, uint64_t value);

/* control.c: control registers and MSRs */
int mon_emulate_control(struct mon *m, struct mon_cpu *cpu,
                        const struct insn *insn);

/* store.c: writes the CPU can't do */
/* Does the monitor emulate it? */
bool mon_can_store(const struct insn *insn);
int mon_emulate_store(struct mon *m, struct mon_cpu *cpu,
                      const struct insn *insn);

/* apic.c */
bool mon_msr_is_apic(uint32_t msr);
int mon_apic_read(struct mon *m, struct mon_cpu *cpu, uint32_t msr,
                  uint64_t *value);
int mon_apic_write(struct mon *m, struct mon_cpu *cpu, uint32_t msr,
                   uint64_t value);
/* Delivers what is pending and allowed; true when something was. */
bool mon_interrupt(struct mon *m, struct mon_cpu *cpu);
bool mon_interrupt_pending(const struct mon_cpu *cpu);

#endif
