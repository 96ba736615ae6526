#include "bt/trace.h"

#include "mmu/entry.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define OUT_WORDS  4096u
#define STRING_MAX (64ull << 30) /* no guest has more memory */
#define CHUNK      8u /* a repeated string instruction's accesses, at least */

/* Pieces of the kernel's code, or of user code. */
struct pieces {
    struct bt_piece *piece;
    struct bt_op *op;
    struct bt_piece_insn *insn;
    uint32_t pieces, ops, insns;
    uint32_t piece_room, op_room, insn_room;
};

struct bt_trace {
    struct bt_trace_config config;
    struct pieces set[2];
    struct bt_trace_stats stats;
    uint64_t base[2];  /* FS, GS */
    uint64_t executed; /* instructions not yet told of */
    bool fetching;     /* of an instruction that may still be done: */
    uint64_t fetch_gva;
    uint8_t fetch_bytes;
    bool fetch_user;
    uint64_t *next;
    uint64_t out[OUT_WORDS];
};

/* ---- Pieces ------------------------------------------------------------ */

/* Room for `more` in an array; false without memory. */
static bool grow(void **array, uint32_t *room, uint32_t used, uint32_t more,
                 size_t bytes)
{
    uint32_t want = *room ? 2 * *room : 4096;
    void *bigger;

    if (used + more <= *room)
        return true;
    bigger = realloc(*array, want * bytes);
    if (!bigger)
        return false;
    *array = bigger;
    *room = want;
    return true;
}

struct bt_piece *bt_trace_begin(struct bt_trace *trace, bool user,
                                uint32_t *number)
{
    struct pieces *set = &trace->set[user];
    struct bt_piece *piece;

    if (!grow((void **)&set->piece, &set->piece_room, set->pieces, 1,
              sizeof *set->piece) ||
        !grow((void **)&set->op, &set->op_room, set->ops, BT_PIECE_OPS,
              sizeof *set->op) ||
        !grow((void **)&set->insn, &set->insn_room, set->insns, BT_PIECE_INSNS,
              sizeof *set->insn))
        return NULL;
    *number = set->pieces << 1 | user;
    piece = &set->piece[set->pieces++];
    *piece = (struct bt_piece){
        .first_op = set->ops, .first_insn = set->insns, .user = user};
    return piece;
}

struct bt_piece_insn *bt_trace_insn(struct bt_trace *trace,
                                    struct bt_piece *piece)
{
    struct pieces *set = &trace->set[piece->user];

    if (piece->insns == BT_PIECE_INSNS)
        return NULL;
    piece->insns++;
    set->insn[set->insns].op = piece->ops;
    return &set->insn[set->insns++];
}

struct bt_op *bt_trace_op(struct bt_trace *trace, struct bt_piece *piece)
{
    struct pieces *set = &trace->set[piece->user];

    if (piece->ops == BT_PIECE_OPS)
        return NULL;
    piece->ops++;
    return &set->op[set->ops++];
}

struct bt_piece *bt_trace_piece(struct bt_trace *trace, uint32_t number)
{
    struct pieces *set = &trace->set[number & 1];

    return number >> 1 < set->pieces ? &set->piece[number >> 1] : NULL;
}

void bt_trace_forget(struct bt_trace *trace, bool user)
{
    struct pieces *set = &trace->set[user];

    if (set->pieces)
        trace->config.drain(trace->config.arg);
    set->pieces = set->ops = set->insns = 0;
}

void bt_trace_unlogged(struct bt_trace *trace)
{
    trace->stats.unlogged++;
}

bool bt_trace_fetches(const struct bt_trace *trace)
{
    return trace->config.fetches;
}

const struct bt_trace_stats *bt_trace_stats(const struct bt_trace *trace)
{
    return &trace->stats;
}

/* ---- Events ------------------------------------------------------------ */

void bt_trace_submit(struct bt_trace *trace)
{
    size_t count = (size_t)(trace->next - trace->out);

    trace->next = trace->out;
    if (count)
        trace->config.take(trace->config.arg, trace->out, count);
}

static inline void put(struct bt_trace *trace, uint64_t word)
{
    if (trace->next > trace->out + OUT_WORDS - EVENT_WORDS_MAX)
        bt_trace_submit(trace);
    *trace->next++ = word;
}

/* An event that is no access. */
static void tell(struct bt_trace *trace, const uint64_t *event)
{
    unsigned kind = event_kind(event[0]), words = event_words(kind);

    put(trace, event[0]);
    for (unsigned i = 1; i < words; i++)
        *trace->next++ = event[i];
    if (kind == EVENT_STORE || kind == EVENT_CLEAR || kind == EVENT_INVLPG ||
        kind == EVENT_CR3)
        trace->config.happened(trace->config.arg, event);
}

static inline void access_at(struct bt_trace *trace, unsigned kind, uint64_t va,
                             unsigned bytes)
{
    if (!mmu_canonical(va, 4))
        return; /* it faulted, or the log was written by somebody else */
    put(trace, event_word(kind, va));
    if (va % PAGE_4K + bytes > PAGE_4K)
        put(trace, event_word(kind, (va | (PAGE_4K - 1)) + 1));
}

/* A store of the kernel's to memory that may become a table. */
static void store_at(struct bt_trace *trace, uint64_t va, uint64_t value)
{
    uint64_t event[] = {event_word(EVENT_STORE, va), 0, value};

    if (va % 8 || !mmu_canonical(va, 4) ||
        !trace->config.locate(trace->config.arg, va, &event[1])) {
        access_at(trace, EVENT_KERNEL_WRITE, va, 8);
        return;
    }
    tell(trace, event);
}

void bt_trace_event(struct bt_trace *trace, enum event_kind kind,
                    uint64_t argument, uint64_t second, uint64_t third)
{
    const uint64_t event[] = {event_word(kind, argument), second, third};

    if (kind == EVENT_PHASE_BEGIN || kind == EVENT_PHASE_END ||
        kind == EVENT_END) {
        put(trace, event_word(EVENT_INSTRUCTIONS, trace->executed));
        trace->executed = 0;
    }
    tell(trace, event);
}

/* ---- Expansion --------------------------------------------------------- */

/* What an operation finds: the piece's words, and of a repetition that was
 * stopped the register that moves. */
struct words {
    const uint64_t *word;
    bool stopped; /* in the midst of it, or before it said what it did */
    uint64_t rsi, rdi;
};

static uint64_t address_of(const struct bt_trace *trace, const struct bt_op *op,
                           const uint64_t *word)
{
    uint64_t va = op->address;

    if (op->base != BT_NO_WORD)
        va += word[op->base];
    if (op->index != BT_NO_WORD && !(op->flags & BT_OP_STRING))
        va += word[op->index] << op->shift;
    if (op->flags & BT_OP_ADDRESS_32)
        va = (uint32_t)va;
    if (op->flags & BT_OP_FS)
        va += trace->base[0];
    if (op->flags & BT_OP_GS)
        va += trace->base[1];
    return va;
}

static uint64_t value_of(const struct bt_op *op, const uint64_t *word)
{
    return op->value == BT_NO_WORD ? (uint64_t)(int64_t)op->immediate
                                   : word[op->value];
}

/* ---- Strings ------------------------------------------------------------ */

struct run {
    uint64_t at, bytes;
    bool down;
};

static struct run run_of(const struct bt_trace *trace, const struct bt_op *op,
                         const struct words *w)
{
    /* RSI's instructions have a read at the base that moves. */
    uint64_t before = w->word[op->shift];
    bool by_rsi = op->immediate;
    uint64_t after = !w->stopped ? w->word[op->index]
                     : by_rsi    ? w->rsi
                                 : w->rdi;
    int64_t moved = (int64_t)(after - before);

    if (op->flags & BT_OP_ADDRESS_32)
        moved = (int32_t)moved;
    return (struct run){
        .at = address_of(trace, op, w->word),
        .bytes = (uint64_t)(moved < 0 ? -moved : moved),
        .down = moved < 0,
    };
}

/* Whole pages of zeros are said once. */
static void clear_page(struct bt_trace *trace, const struct run *run,
                       uint64_t va, uint64_t done)
{
    uint64_t gpa;

    if (va % PAGE_4K == 0 && mmu_canonical(va, 4) && !run->down &&
        run->bytes - done >= PAGE_4K &&
        trace->config.locate(trace->config.arg, va, &gpa))
        tell(trace,
             (const uint64_t[EVENT_WORDS_MAX]){event_word(EVENT_CLEAR, gpa)});
}

static bool is_cleared(const struct run *run, uint64_t va)
{
    uint64_t page = va & ~(PAGE_4K - 1);

    return !run->down && page >= run->at &&
           page + PAGE_4K <= run->at + run->bytes;
}

static uint64_t repeated(uint64_t value, unsigned bytes)
{
    return bytes == 1   ? (value & 0xff) * 0x0101010101010101
           : bytes == 2 ? (value & 0xffff) * 0x0001000100010001
           : bytes == 4 ? (value & 0xffffffff) * 0x0000000100000001
                        : value;
}

static void string_step(struct bt_trace *trace, const struct bt_op *op,
                        const struct run *run, const uint64_t *word,
                        uint64_t done, unsigned bytes)
{
    uint64_t va =
        run->down ? run->at + op->bytes - done - bytes : run->at + done;
    uint64_t value;

    if (!(op->flags & BT_OP_STORE) || bytes != 8) {
        access_at(trace, op->kind, va, bytes);
        return;
    }
    value = repeated(value_of(op, word), op->bytes);
    if (!value)
        clear_page(trace, run, va, done);
    if (value || !is_cleared(run, va))
        store_at(trace, va, value);
    else
        access_at(trace, op->kind, va, bytes);
}

static void string(struct bt_trace *trace, const struct bt_op *op,
                   const struct words *w)
{
    unsigned ops = op->flags & BT_OP_PAIR ? 2 : 1;
    struct run run[2] = {{0}};

    for (unsigned i = 0; i < ops; i++)
        run[i] = run_of(trace, &op[i], w);
    if (run[0].bytes > STRING_MAX)
        return; /* somebody else wrote to the log */
    for (uint64_t done = 0; done < run[0].bytes; done += CHUNK) {
        uint64_t left = run[0].bytes - done;

        for (unsigned i = 0; i < ops; i++)
            string_step(trace, &op[i], &run[i], w->word, done,
                        left < CHUNK ? (unsigned)left : CHUNK);
    }
}

/* ---- Pieces' accesses ---------------------------------------------------- */

/* An operation that is no simple access. How many operations it was. */
static unsigned special(struct bt_trace *trace, const struct bt_op *op,
                        const struct words *w)
{
    if (op->flags & BT_OP_STRING) {
        string(trace, op, w);
        return op->flags & BT_OP_PAIR ? 2 : 1;
    }
    if (op->flags & BT_OP_STORE && !(op->flags & BT_OP_DONE && w->stopped))
        store_at(trace, address_of(trace, op, w->word), value_of(op, w->word));
    else
        access_at(trace, op->kind, address_of(trace, op, w->word), op->bytes);
    return 1;
}

static void operations(struct bt_trace *trace, const struct bt_op *op,
                       const struct bt_op *end, const struct words *w)
{
    const uint64_t *word = w->word;

    while (op < end) {
        uint64_t va = op->address;

        if (op->flags) {
            op += special(trace, op, w);
            continue;
        }
        if (op->base != BT_NO_WORD)
            va += word[op->base];
        if (op->index != BT_NO_WORD)
            va += word[op->index] << op->shift;
        access_at(trace, op->kind, va, op->bytes);
        op++;
    }
}

static void pending_fetch(struct bt_trace *trace)
{
    if (!trace->fetching)
        return;
    trace->fetching = false;
    trace->executed++;
    trace->stats.instructions++;
    if (trace->config.fetches)
        access_at(trace, trace->fetch_user ? EVENT_FETCH : EVENT_KERNEL_FETCH,
                  trace->fetch_gva, trace->fetch_bytes);
}

/* How many instructions of the piece are before the code at `code`, which is
 * exact: `rip` is of the guest's state there. */
static unsigned done_before(const struct bt_piece *piece,
                            const struct bt_piece_insn *insn, uint64_t rip)
{
    unsigned i = 0;

    while (i < piece->insns && piece->gva + insn[i].guest < rip)
        i++;
    return i;
}

/* A piece that a trap stopped. Of the instruction where it stands only the
 * iterations that are done happened; of the one before, the words that follow
 * it may be missing. */
static void partial(struct bt_trace *trace, const struct bt_piece *piece,
                    const struct bt_op *ops, const struct bt_piece_insn *insn,
                    struct words *w, const uint64_t *stop, unsigned done)
{
    uint32_t code = (uint32_t)stop[0];
    unsigned last = done && code < insn[done - 1].logged ? done - 1 : done;

    operations(trace, ops,
               ops + (last < piece->insns ? insn[last].op : piece->ops), w);
    w->stopped = true;
    w->rsi = stop[1];
    w->rdi = stop[2];
    if (last < done)
        operations(trace, ops + insn[last].op,
                   ops + (done < piece->insns ? insn[done].op : piece->ops), w);
    trace->executed += done;
    trace->stats.instructions += done;
    if (done == piece->insns)
        return;
    trace->fetching = true;
    trace->fetch_user = piece->user;
    trace->fetch_gva = piece->gva + insn[done].guest;
    trace->fetch_bytes = insn[done].length;
    if (code < insn[done].begun)
        return;
    for (const struct bt_op *op = ops + insn[done].op;
         op < ops + (done + 1 < piece->insns ? insn[done + 1].op : piece->ops);
         op++)
        if (op->flags & BT_OP_STRING) {
            string(trace, op, w);
            break;
        }
}

/* Where the guest stands at a stop in the piece; false: behind all of it, or
 * before its first word was written again. */
static bool stopped_in(const struct bt_piece *piece, const uint64_t *stop)
{
    uint32_t code = (uint32_t)stop[0];

    return event_kind(stop[0]) == BT_LOG_STOP &&
           !!(stop[0] & BT_LOG_USER) == piece->user && code >= piece->logged &&
           code < piece->end;
}

/* The number of words that it takes, or -EINVAL. */
static long piece(struct bt_trace *trace, const uint64_t *words, size_t count)
{
    uint64_t number = ~words[0];
    struct pieces *set = &trace->set[number & 1];
    struct words w = {.word = words + 1};
    const struct bt_piece *piece;
    const struct bt_op *ops;
    size_t length;

    if (number >> 1 >= set->pieces)
        return -EINVAL;
    piece = &set->piece[number >> 1];
    length = 1 + (size_t)piece->words;
    if (length > count)
        return -EINVAL;
    ops = set->op + piece->first_op;
    trace->fetching = false; /* it is done again */
    trace->stats.pieces++;
    if (count - length >= BT_LOG_STOP_WORDS &&
        stopped_in(piece, words + length)) {
        const struct bt_piece_insn *insn = set->insn + piece->first_insn;

        partial(trace, piece, ops, insn, &w, words + length,
                done_before(piece, insn, words[length + 3]));
        if (words[length] & BT_LOG_CALL)
            pending_fetch(trace);
        return (long)(length + BT_LOG_STOP_WORDS);
    }
    operations(trace, ops, ops + piece->ops, &w);
    trace->executed += piece->insns;
    trace->stats.instructions += piece->insns;
    return (long)length;
}

static long other(struct bt_trace *trace, const uint64_t *words, size_t count)
{
    unsigned kind = event_kind(words[0]), length = event_words(kind);

    if (kind == BT_LOG_STOP)
        return count < BT_LOG_STOP_WORDS ? -EINVAL : BT_LOG_STOP_WORDS;
    if (kind == BT_LOG_BASE) {
        if (count < 2)
            return -EINVAL;
        trace->base[words[0] & 1] = words[1];
        return 2;
    }
    if (!length || length > count)
        return -EINVAL;
    pending_fetch(trace);
    tell(trace, words);
    return (long)length;
}

int bt_trace_expand(struct bt_trace *trace, const uint64_t *words, size_t count)
{
    size_t at = 0;

    trace->stats.words += count;
    while (at < count) {
        long length = event_kind(words[at]) == BT_LOG_PIECE
                          ? piece(trace, words + at, count - at)
                          : other(trace, words + at, count - at);

        if (length < 0)
            return (int)length;
        at += (size_t)length;
    }
    return 0;
}

/* ---- Life -------------------------------------------------------------- */

struct bt_trace *bt_trace_create(const struct bt_trace_config *config)
{
    struct bt_trace *trace = calloc(1, sizeof *trace);

    if (trace) {
        trace->config = *config;
        trace->next = trace->out;
    }
    return trace;
}

void bt_trace_destroy(struct bt_trace *trace)
{
    if (!trace)
        return;
    for (unsigned i = 0; i < 2; i++) {
        free(trace->set[i].piece);
        free(trace->set[i].op);
        free(trace->set[i].insn);
    }
    free(trace);
}
