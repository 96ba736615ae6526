/*
 * ChampSim's traces (inc/trace_instruction.h there, struct input_instr): a
 * record of 64 bytes for each instruction, nothing before or between them.
 */
#include "trace/formats.h"

#include <string.h>

#define DESTINATIONS 2
#define SOURCES      4

struct instruction {
    uint64_t ip;
    uint8_t is_branch, branch_taken;
    uint8_t destination_registers[DESTINATIONS];
    uint8_t source_registers[SOURCES];
    uint64_t destination_memory[DESTINATIONS]; /* 0: none */
    uint64_t source_memory[SOURCES];
};

_Static_assert(sizeof(struct instruction) == 64, "no padding");

/* The format has no sizes, and its simulator translates addresses: one byte
 * never crosses into a page the simulator would not see. */
#define BYTES 1

static int add_all(struct import *import, const uint64_t *addresses,
                   unsigned count, enum mmu_access access, struct why *why)
{
    int err = 0;

    for (unsigned i = 0; i < count && !err; i++)
        if (addresses[i])
            err = import_add(import, access, addresses[i], BYTES, why);
    return err;
}

/* What no instruction has: the format has no magic number. */
static bool nonsense(const struct instruction *instruction)
{
    int64_t ip = (int64_t)(instruction->ip << 7) >> 7;

    return instruction->is_branch > 1 || instruction->branch_taken > 1 ||
           (uint64_t)ip != instruction->ip;
}

static int champsim_next(struct import *import, struct why *why)
{
    struct instruction instruction;
    const uint8_t *record;
    int more = import_record(import, sizeof instruction, &record, why);
    int err = 0;

    if (more <= 0)
        return more;
    memcpy(&instruction, record, sizeof instruction);
    if (nonsense(&instruction))
        return import_wrong(import, why,
                            "not a ChampSim instruction of 64 bytes");
    if (import->options.fetches)
        err = import_add(import, MMU_FETCH, instruction.ip, BYTES, why);
    if (!err)
        err =
            add_all(import, instruction.source_memory, SOURCES, MMU_READ, why);
    if (!err)
        err = add_all(import, instruction.destination_memory, DESTINATIONS,
                      MMU_WRITE, why);
    return err ? err : 1;
}

const struct import_format import_champsim = {
    .name = "champsim",
    .unit = "record",
    .next = champsim_next,
    .none = "its instructions touch no memory",
};
