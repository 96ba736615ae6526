/* The monitor's part of a trace. */
#include "bt/trace.h"
#include "vmm/monitor/core.h"

#define EVENTS_MAX 64 /* words that one event needs, at most */

static uint64_t *next_word(const struct mon_cpu *cpu)
{
    return &((struct bt_state *)(cpu->bt.area[0] + BT_STATE))->log;
}

/* Offset in the area. What CPL 3 left there is not trusted. */
static uint64_t used(const struct mon_cpu *cpu)
{
    uint64_t at = *next_word(cpu) - cpu->bt.cache[0]->va;

    return at >= BT_LOG && at <= BT_LOG_END && at % 8 == 0 ? at : BT_LOG;
}

void mon_log_drain(struct mon *m, struct mon_cpu *cpu)
{
    cpu->call_translation =
        (struct mon_translation){.op = MON_TRANSLATOR_DRAIN};
    if (m->ops.translator(cpu))
        mon_end(cpu, MON_END_TRACE, 0, 0);
    *next_word(cpu) = cpu->bt.cache[0]->va + BT_LOG;
}

static void append(struct mon *m, struct mon_cpu *cpu, const uint64_t *words,
                   unsigned count)
{
    uint64_t at = used(cpu);

    if (at + EVENTS_MAX * 8 > BT_LOG_END) {
        mon_log_drain(m, cpu);
        at = BT_LOG;
    }
    for (unsigned i = 0; i < count; i++, at += 8)
        *(uint64_t *)(cpu->bt.area[0] + at) = words[i];
    *next_word(cpu) = cpu->bt.cache[0]->va + at;
}

static void event(struct mon *m, struct mon_cpu *cpu, uint64_t first,
                  uint64_t second, uint64_t third)
{
    const uint64_t words[] = {first, second, third};

    append(m, cpu, words, event_words(event_kind(first)));
}

/* The page behind the log's last has room for it, and so a full log too: no
 * piece without its stop. */
void mon_log_stop(struct mon *m, struct mon_cpu *cpu, uint64_t code,
                  bool called_out)
{
    uint64_t offset = code - cpu->bt.cache[cpu->v.user]->va - BT_CODE;
    uint64_t at, *to;

    at = used(cpu);
    to = (uint64_t *)(cpu->bt.area[0] + at);
    to[0] = bt_log_word(BT_LOG_STOP, offset | (cpu->v.user ? BT_LOG_USER : 0) |
                                         (called_out ? BT_LOG_CALL : 0));
    to[1] = cpu->frame.rsi;
    to[2] = cpu->frame.rdi;
    to[3] = cpu->frame.rip;
    *next_word(cpu) = cpu->bt.cache[0]->va + at + BT_LOG_STOP_WORDS * 8;
    if (at + EVENTS_MAX * 8 > BT_LOG_END)
        mon_log_drain(m, cpu);
}

bool mon_log_is_full(const struct mon_cpu *cpu)
{
    uint64_t at;

    if (cpu->frame.vector != VECTOR_PF)
        return false;
    at = cpu->fault_address - cpu->bt.cache[0]->va;
    return at >= BT_LOG && at < BT_LOG_END + PAGE_4K;
}

void mon_log_access(struct mon *m, struct mon_cpu *cpu, uint64_t va,
                    enum mmu_access access, unsigned bytes)
{
    unsigned kind = (cpu->v.user ? EVENT_READ : EVENT_KERNEL_READ) + access;

    for (unsigned done = 0; done < bytes; done += 8)
        event(m, cpu, event_word((enum event_kind)kind, va + done), 0, 0);
}

void mon_log_write(struct mon *m, struct mon_cpu *cpu, uint64_t va, uint64_t pa,
                   unsigned bytes)
{
    if (cpu->v.user) {
        mon_log_access(m, cpu, va, MMU_WRITE, bytes);
        return;
    }
    for (uint64_t at = pa & ~7ull; at < pa + bytes; at += 8) {
        const uint64_t *value = mon_ram(m, at, 8);

        event(m, cpu, event_word(EVENT_STORE, va - pa + at), at, *value);
    }
}

void mon_log_fault(struct mon *m, struct mon_cpu *cpu, uint64_t va,
                   uint32_t error)
{
    event(m, cpu, event_word(EVENT_FAULT, va), error, 0);
}

void mon_log_invlpg(struct mon *m, struct mon_cpu *cpu, uint64_t va)
{
    event(m, cpu, event_word(EVENT_INVLPG, va), 0, 0);
}

void mon_log_cr3(struct mon *m, struct mon_cpu *cpu)
{
    event(m, cpu, event_word(EVENT_CR3, 0), cpu->v.cr3, 0);
}

void mon_log_bases(struct mon *m, struct mon_cpu *cpu)
{
    uint64_t words[] = {
        bt_log_word(BT_LOG_BASE, 0),
        0,
        bt_log_word(BT_LOG_BASE, 1),
        0,
    };

    words[1] = m->ops.get_base(cpu, INSN_FS);
    words[3] = m->ops.get_base(cpu, INSN_GS);
    append(m, cpu, words, 4);
}
