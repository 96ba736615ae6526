#include "trace/check.h"
#include "workloads/api.h"

#define CR3_ROOT     0x000ffffffffff000ull
#define CR3_KEEP     (1ull << 63) /* with PCIDs: flush nothing */
#define CR3_RESERVED (~(CR3_ROOT | CR3_KEEP | 0xfff))

const char *event_guest_wrong(const struct event_guest *guest)
{
    if (guest->levels != 4 && guest->levels != 5)
        return "levels of paging other than 4 and 5";
    if (guest->physical_bits < 36 || guest->physical_bits > 52)
        return "MAXPHYADDR outside 36 to 52";
    if (!guest->ram_bytes || guest->ram_bytes & 0xfff)
        return "RAM that is no whole number of pages";
    if (guest->ram_bytes > 1ull << guest->physical_bits)
        return "more RAM than MAXPHYADDR reaches";
    return NULL;
}

void event_check_begin(struct event_check *check,
                       const struct event_guest *guest)
{
    *check = (struct event_check){
        .guest = *guest,
        .va_shift = guest->levels == 5 ? 7 : 16,
        .phase = -1,
    };
}

static bool canonical(const struct event_check *check, uint64_t va)
{
    return (uint64_t)((int64_t)(va << check->va_shift) >> check->va_shift) ==
           va;
}

static bool page_in_ram(const struct event_check *check, uint64_t gpa)
{
    return gpa < check->guest.ram_bytes && !(gpa & 0xfff);
}

static const char *wrong_store(const struct event_check *check,
                               const uint64_t *words)
{
    if (event_argument(words[0]) & 7 || words[1] & 7)
        return "a store that is not 8-byte aligned";
    if (words[1] >= check->guest.ram_bytes)
        return "a store beyond RAM";
    if ((words[0] ^ words[1]) & 0xfff)
        return "a store whose GVA and GPA differ within the page";
    return NULL;
}

static const char *wrong_error_code(uint64_t code)
{
    if (code & ~(uint64_t)(PF_P | PF_W | PF_U | PF_RS | PF_I) ||
        (code & PF_W && code & PF_I) || (code & PF_RS && !(code & PF_P)))
        return "an error code that no page fault has";
    return NULL;
}

static const char *wrong_cr3(const struct event_check *check,
                             const uint64_t *words)
{
    if (event_argument(words[0]))
        return "MOV to CR3 with an argument";
    if (words[1] & CR3_RESERVED)
        return "CR3 with reserved bits";
    if (words[1] & CR3_KEEP && !check->guest.pcid)
        return "CR3 with bit 63, but no PCIDs";
    if ((words[1] & CR3_ROOT) >= check->guest.ram_bytes)
        return "CR3 beyond RAM";
    return NULL;
}

static const char *wrong_begin(struct event_check *check, uint64_t phase)
{
    if (phase >= WL_PHASES)
        return "a phase that does not exist";
    if (check->phase >= 0)
        return "a phase that begins inside another";
    check->phase = (int)phase;
    return NULL;
}

static const char *wrong_end(struct event_check *check, uint64_t phase)
{
    if (check->phase < 0 || phase != (uint64_t)check->phase)
        return "the end of a phase that is not open";
    check->phase = -1;
    return NULL;
}

static const char *wrong_last(struct event_check *check, uint64_t argument)
{
    if (argument)
        return "an end with an argument";
    if (check->phase >= 0)
        return "an end inside a phase";
    check->ended = true;
    return NULL;
}

/* NULL, or what is wrong with a whole event that is no access. */
static const char *wrong(struct event_check *check, const uint64_t *words)
{
    uint64_t argument = event_argument(words[0]);
    unsigned kind = event_kind(words[0]);

    if ((kind == EVENT_STORE || kind == EVENT_FAULT || kind == EVENT_INVLPG) &&
        !canonical(check, event_va(words[0])))
        return "an address that is not canonical";
    switch (kind) {
    case EVENT_STORE:
        return wrong_store(check, words);
    case EVENT_FAULT:
        return wrong_error_code(words[1]);
    case EVENT_CLEAR:
        return page_in_ram(check, argument) ? NULL
                                            : "a cleared page that is not RAM";
    case EVENT_CR3:
        return wrong_cr3(check, words);
    case EVENT_PHASE_BEGIN:
        return wrong_begin(check, argument);
    case EVENT_PHASE_END:
        return wrong_end(check, argument);
    case EVENT_END:
        return wrong_last(check, argument);
    default: /* INVLPG, INSTRUCTIONS */
        return NULL;
    }
}

/* The words of the event, 0 with the cause when it is wrong. */
static unsigned check_event(struct event_check *check, const uint64_t *words,
                            size_t count, const char **cause)
{
    unsigned length = event_words(event_kind(words[0]));

    if (check->ended)
        *cause = "an event after the end";
    else if (!length)
        *cause = "an event of no known kind";
    else if (length > count)
        *cause = "an event without its last words";
    else if (!(*cause = wrong(check, words)))
        return length;
    return 0;
}

/* Accesses, up to the first word that is none or is wrong. */
static size_t check_accesses(struct event_check *check, const uint64_t *words,
                             size_t count)
{
    size_t i;

    for (i = 0; i < count; i++) {
        unsigned kind = event_kind(words[i]);

        if (kind > EVENT_KERNEL_FETCH || !canonical(check, event_va(words[i])))
            break;
        check->counts[kind]++;
    }
    check->events += i;
    return i;
}

size_t event_check_run(struct event_check *check, const uint64_t *words,
                       size_t count, const char **cause)
{
    size_t done = 0;
    unsigned length;

    for (;;) {
        if (!check->ended)
            done += check_accesses(check, words + done, count - done);
        if (done == count)
            return done;
        if (!check->ended && event_kind(words[done]) <= EVENT_KERNEL_FETCH) {
            *cause = "an address that is not canonical";
            return done;
        }
        length = check_event(check, words + done, count - done, cause);
        if (!length)
            return done;
        check->counts[event_kind(words[done])]++;
        check->events++;
        done += length;
    }
}
