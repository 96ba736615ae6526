/*
 * Indirect branches: one small interpreter twice, as a switch that becomes a
 * table of jumps, and as a table of functions. The program changes from round
 * to round, so neither the CPU nor a translator can learn it.
 */
#include "workloads/api.h"
#include "workloads/compute/compute.h"

#define STEPS 2048

void compute_make_program(struct compute_page *page, uint64_t *rng)
{
    for (unsigned i = 0; i < COMPUTE_PROGRAM; i++) {
        uint64_t bits = wl_random(rng);

        page->program[i] = (struct compute_instruction){
            .opcode = bits >> 60 & (COMPUTE_OPCODES - 1),
            .a = bits >> 56 & (COMPUTE_REGISTERS - 1),
            .b = bits >> 52 & (COMPUTE_REGISTERS - 1),
            .constant = bits >> 40 & 0xff,
        };
    }
    for (unsigned i = 0; i < COMPUTE_REGISTERS; i++)
        page->registers[i] = wl_random(rng);
}
_Static_assert(COMPUTE_OPCODES == 16, "drawn by four bits");

static uint64_t sum_of(const struct compute_page *page)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < COMPUTE_REGISTERS; i++)
        sum = compute_mix(sum, page->registers[i]);
    return sum;
}

static uint64_t rotate(uint64_t value, unsigned count)
{
    return value << (count & 63) | value >> (-count & 63);
}

/* ---- By switch ---------------------------------------------------------- */

uint64_t compute_by_switch(struct compute_page *page, unsigned steps)
{
    uint64_t *r = page->registers;
    unsigned pc = 0;

    for (; steps; steps--, pc++) {
        struct compute_instruction i = page->program[pc % COMPUTE_PROGRAM];

        switch ((enum compute_opcode)i.opcode) {
        case COMPUTE_ADD:
            r[i.a] += r[i.b];
            break;
        case COMPUTE_SUB:
            r[i.a] -= r[i.b];
            break;
        case COMPUTE_MUL:
            r[i.a] *= r[i.b] | 1;
            break;
        case COMPUTE_AND:
            r[i.a] &= r[i.b];
            break;
        case COMPUTE_OR:
            r[i.a] |= r[i.b];
            break;
        case COMPUTE_XOR:
            r[i.a] ^= r[i.b];
            break;
        case COMPUTE_NOT:
            r[i.a] = ~r[i.b];
            break;
        case COMPUTE_SHIFT_LEFT:
            r[i.a] <<= r[i.b] & 63;
            break;
        case COMPUTE_SHIFT_RIGHT:
            r[i.a] >>= r[i.b] & 63;
            break;
        case COMPUTE_ROTATE:
            r[i.a] = rotate(r[i.a], i.constant);
            break;
        case COMPUTE_MOVE:
            r[i.a] = r[i.b];
            break;
        case COMPUTE_LOAD:
            r[i.a] = page->words[i.constant];
            break;
        case COMPUTE_STORE:
            page->words[i.constant] = (uint32_t)r[i.a];
            break;
        case COMPUTE_MINIMUM:
            r[i.a] = r[i.a] < r[i.b] ? r[i.a] : r[i.b];
            break;
        case COMPUTE_SKIP_IF_ODD:
            pc += r[i.a] & 1;
            break;
        default:
            r[i.a] = i.constant * 0x0101010101010101ull;
        }
    }
    return sum_of(page);
}

/* ---- By function pointers ----------------------------------------------- */

/* Returns how many instructions to skip. */
typedef unsigned handler(struct compute_page *page,
                         struct compute_instruction i);

#define HANDLER(name, ...)                                  \
    static unsigned do_##name(struct compute_page *page,    \
                              struct compute_instruction i) \
    {                                                       \
        uint64_t *r = page->registers;                      \
        unsigned skip = 0;                                  \
        __VA_ARGS__;                                        \
        return skip;                                        \
    }

HANDLER(add, r[i.a] += r[i.b])
HANDLER(sub, r[i.a] -= r[i.b])
HANDLER(mul, r[i.a] *= r[i.b] | 1)
HANDLER(and, r[i.a] &= r[i.b])
HANDLER(or, r[i.a] |= r[i.b])
HANDLER(xor, r[i.a] ^= r[i.b])
HANDLER(not, r[i.a] = ~r[i.b])
HANDLER(shift_left, r[i.a] <<= r[i.b] & 63)
HANDLER(shift_right, r[i.a] >>= r[i.b] & 63)
HANDLER(rotate, r[i.a] = rotate(r[i.a], i.constant))
HANDLER(move, r[i.a] = r[i.b])
HANDLER(load, r[i.a] = page->words[i.constant])
HANDLER(store, page->words[i.constant] = (uint32_t)r[i.a])
HANDLER(minimum, r[i.a] = r[i.a] < r[i.b] ? r[i.a] : r[i.b])
HANDLER(skip_if_odd, skip = r[i.a] & 1)
HANDLER(constant, r[i.a] = i.constant * 0x0101010101010101ull)

static handler *const handlers[COMPUTE_OPCODES] = {
    [COMPUTE_ADD] = do_add,
    [COMPUTE_SUB] = do_sub,
    [COMPUTE_MUL] = do_mul,
    [COMPUTE_AND] = do_and,
    [COMPUTE_OR] = do_or,
    [COMPUTE_XOR] = do_xor,
    [COMPUTE_NOT] = do_not,
    [COMPUTE_SHIFT_LEFT] = do_shift_left,
    [COMPUTE_SHIFT_RIGHT] = do_shift_right,
    [COMPUTE_ROTATE] = do_rotate,
    [COMPUTE_MOVE] = do_move,
    [COMPUTE_LOAD] = do_load,
    [COMPUTE_STORE] = do_store,
    [COMPUTE_MINIMUM] = do_minimum,
    [COMPUTE_SKIP_IF_ODD] = do_skip_if_odd,
    [COMPUTE_CONSTANT] = do_constant,
};

uint64_t compute_by_pointers(struct compute_page *page, unsigned steps)
{
    unsigned pc = 0;

    for (; steps; steps--, pc++) {
        struct compute_instruction i = page->program[pc % COMPUTE_PROGRAM];

        pc += handlers[i.opcode](page, i);
    }
    return sum_of(page);
}

/* ---- The workload ------------------------------------------------------- */

uint64_t kindirect(struct compute_page *page, uint64_t operations,
                   uint64_t seed)
{
    uint64_t rng = seed, sum = 0;

    for (unsigned i = 0; i < COMPUTE_WORDS; i++)
        page->words[i] = (uint32_t)wl_random(&rng);
    for (; operations; operations--) {
        compute_make_program(page, &rng);
        sum = compute_mix(sum, compute_by_switch(page, STEPS));
        sum = compute_mix(sum, compute_by_pointers(page, STEPS));
    }
    return sum;
}
