/*
 * What translated code says of its memory accesses, and the events that it
 * stands for (trace/event.h).
 *
 * A translator with a trace cuts each block into straight pieces. The code of
 * a piece first writes a word with the piece's number to the log, which also
 * takes the room for the words behind it: registers that its accesses are
 * relative to. All else is known when it is translated, and kept here. The
 * log's last page can't be written, so that a full log is a page fault, before
 * anything of the piece is done.
 *
 * Whoever takes the traps of translated code appends the rest: where a trap
 * came, which says how much of the last piece was done; and, as events, what
 * he does in the guest's stead.
 */
#ifndef BT_TRACE_H
#define BT_TRACE_H

#include "base/why.h"
#include "bt/cache.h"
#include "trace/event.h"

/* First words of what is in the log: events by their kind, or these in the same
 * bits. A piece's is all ones above, ~number below. */
enum bt_log_word {
    /* A trap, argument: offset in BT_CODE, | bt_log_stop; words: the guest's
     * RSI, RDI and RIP there. */
    BT_LOG_STOP = 0x40,
    BT_LOG_BASE = 0x41, /* argument: 0 FS, 1 GS; word: its base */
    BT_LOG_PIECE = 0x7f,
};
/* In user code; at a call-out, whose fetch has been. */
#define BT_LOG_USER       (1ull << 32)
#define BT_LOG_CALL       (1ull << 33)
#define BT_LOG_STOP_WORDS 4

static inline uint64_t bt_log_word(enum bt_log_word kind, uint64_t argument)
{
    return (uint64_t)kind << EVENT_SHIFT | (argument & EVENT_ARGUMENT);
}

struct bt_trace_config {
    bool fetches;
    /* Takes whole events, at least until it returns. */
    void (*take)(void *arg, uint64_t *words, size_t count);
    /* A store, a cleared page, INVLPG or MOV to CR3, when it is its turn. */
    void (*happened)(void *arg, const uint64_t *event);
    /* Guest-physical, of a store of the kernel's, after all of that; false: no
     * table can be there. */
    bool (*locate)(void *arg, uint64_t gva, uint64_t *gpa);
    /* Expands what is in the log, now: pieces will be forgotten. */
    void (*drain)(void *arg);
    void *arg;
};

struct bt_trace;

/* Of one vCPU: for the translators of its kernel's and its user code. NULL
 * without memory. */
struct bt_trace *bt_trace_create(const struct bt_trace_config *config);
void bt_trace_destroy(struct bt_trace *trace);

/* The events of the log's words, whose last piece is followed by a stop.
 * -EINVAL when nobody writes such words; what came before is taken. */
int bt_trace_expand(struct bt_trace *trace, const uint64_t *words,
                    size_t count);

/* An event from outside the log. */
void bt_trace_event(struct bt_trace *trace, enum event_kind kind,
                    uint64_t argument, uint64_t second, uint64_t third);

/* What was expanded so far to whoever takes it. */
void bt_trace_submit(struct bt_trace *trace);

struct bt_trace_stats {
    uint64_t instructions, pieces, words;
    uint64_t unlogged; /* accesses whose address no register has: gathers */
};

const struct bt_trace_stats *bt_trace_stats(const struct bt_trace *trace);

/* ---- The translator's side ---------------------------------------------- */

#define BT_NO_WORD 0xff

enum bt_op_flags {
    BT_OP_ADDRESS_32 = 1 << 0,
    BT_OP_FS = 1 << 1,
    BT_OP_GS = 1 << 2,
    /* Repeated: from the base as far as word `index` is from word `shift`, by
     * RSI where there is an immediate, else by RDI. */
    BT_OP_STRING = 1 << 3,
    BT_OP_PAIR = 1 << 4,  /* with the next operation, in turns */
    BT_OP_STORE = 1 << 5, /* of word `value`, or of `immediate` */
    BT_OP_DONE = 1 << 6,  /* its value is logged after the instruction */
    BT_OP_UNLOGGED = 1 << 7,
};

/* An access of a piece: address + word[base] + (word[index] << shift). */
struct bt_op {
    uint64_t address;
    int32_t immediate;
    uint16_t bytes;
    uint8_t kind, flags; /* enum event_kind, bt_op_flags */
    uint8_t base, index, shift, value;
};

struct bt_piece_insn {
    uint32_t op; /* its first, in the piece */
    /* Offsets in BT_CODE: where all that it is relative to is written, and
     * where what is read after it is. */
    uint32_t begun, logged;
    uint16_t guest; /* offset from the piece's gva */
    uint8_t length;
};

#define BT_PIECE_OPS   512
#define BT_PIECE_INSNS 64

/* A piece in the making is put at the end; its number. */
struct bt_piece {
    uint64_t gva;
    uint32_t first_op, first_insn;
    uint32_t logged; /* offset in BT_CODE behind its first word's writing */
    uint32_t end;    /* where all of it is done */
    uint16_t ops, insns, words;
    bool user;
};

/* NULL without memory. */
struct bt_piece *bt_trace_begin(struct bt_trace *trace, bool user,
                                uint32_t *number);
struct bt_piece_insn *bt_trace_insn(struct bt_trace *trace,
                                    struct bt_piece *piece);
struct bt_op *bt_trace_op(struct bt_trace *trace, struct bt_piece *piece);
void bt_trace_unlogged(struct bt_trace *trace);
bool bt_trace_fetches(const struct bt_trace *trace);
struct bt_piece *bt_trace_piece(struct bt_trace *trace, uint32_t number);

/* All pieces of kernel or user code are gone, after a drain. */
void bt_trace_forget(struct bt_trace *trace, bool user);

#endif
