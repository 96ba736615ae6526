#include "vmm/results.h"

#include "workloads/api.h"
#include "workloads/audit.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>

static void copy_once(const volatile void *page, void *to, size_t bytes)
{
    const volatile uint8_t *from = page;

    for (size_t i = 0; i < bytes; i++)
        ((uint8_t *)to)[i] = from[i];
}

static int check_phase(const struct guest_phase *phase, unsigned index,
                       struct why *why)
{
    if (phase->phase >= WL_PHASES)
        return why_set(why, EINVAL,
                       "the guest scribbled over its results page: phase %u "
                       "is number %u",
                       index, phase->phase);
    if (phase->tsc_end < phase->tsc_begin)
        return why_set(why, EINVAL,
                       "the guest scribbled over its results page: phase %u "
                       "ends before it begins",
                       index);
    return 0;
}

static int check_audits(const struct guest_results *results, struct why *why)
{
    for (unsigned i = 0; i < results->audits; i++)
        if (results->audit[i].instruction >= AUDIT_INSTRUCTIONS)
            return why_set(why, EINVAL,
                           "the guest scribbled over its results page: "
                           "instruction %u of the audit",
                           results->audit[i].instruction);
    return 0;
}

static void clean_message(char *message)
{
    message[GUEST_MESSAGE_MAX - 1] = 0;
    for (; *message; message++)
        if (!isprint((unsigned char)*message))
            *message = '?';
}

int guest_results_read(const volatile void *page, size_t bytes,
                       struct guest_results *results, struct why *why)
{
    int err = 0;

    if (bytes < sizeof *results)
        return why_set(why, EINVAL,
                       "the guest's results are truncated: %zu bytes of %zu",
                       bytes, sizeof *results);
    copy_once(page, results, sizeof *results);
    if (results->magic != GUEST_RESULTS_MAGIC ||
        results->version != GUEST_ABI_VERSION)
        return why_set(why, EINVAL,
                       "the guest left no results (magic 0x%" PRIx64
                       ", version %u)",
                       results->magic, results->version);
    if (results->state < GUEST_RUNNING || results->state > GUEST_UNSUPPORTED ||
        results->phases > GUEST_PHASES_MAX ||
        results->audits > GUEST_AUDITS_MAX)
        return why_set(why, EINVAL,
                       "the guest scribbled over its results page: state %u, "
                       "%u phases",
                       results->state, results->phases);
    clean_message(results->message);
    for (unsigned i = 0; !err && i < results->phases; i++)
        err = check_phase(&results->phase[i], i, why);
    return err ? err : check_audits(results, why);
}
