#include "harness/counters/exit_reasons.h"

#include <asm/kvm.h>
#include <asm/svm.h>
#include <asm/vmx.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct reason {
    uint32_t number;
    const char *name;
};

/* The kernel's user-space headers hold both tables, spelt as perf does. */
static const struct reason vmx_reasons[] = {VMX_EXIT_REASONS};
static const struct reason svm_reasons[] = {SVM_EXIT_REASONS};

static const char *lookup(const struct reason *table, unsigned count,
                          uint32_t number)
{
    for (unsigned i = 0; i < count; i++)
        if (table[i].number == number)
            return table[i].name;
    return NULL;
}

/* "EPT_VIOLATION" becomes ept_violation, "PF excp" becomes excp_pf, and the
 * headers' "read_rt" is the task register, TR. */
static void spell(const char *name, char *out, size_t bytes)
{
    const char *excp = strstr(name, " excp");

    if (excp)
        snprintf(out, bytes, "excp_%.*s", (int)(excp - name), name);
    else if (!strcmp(name, "read_rt") || !strcmp(name, "write_rt"))
        snprintf(out, bytes, "%.*str", (int)strlen(name) - 2, name);
    else
        snprintf(out, bytes, "%s", name);
    for (; *out; out++)
        *out = *out == ' ' ? '_' : (char)tolower((unsigned char)*out);
}

static void vmx_name(uint64_t reason, char name[40])
{
    const char *found =
        lookup(vmx_reasons, sizeof vmx_reasons / sizeof vmx_reasons[0],
               reason & 0xffff);
    size_t at = 0;

    if (reason & VMX_EXIT_REASONS_FAILED_VMENTRY)
        at = (size_t)snprintf(name, 40, "failed_vmentry_");
    if (found)
        spell(found, name + at, 40 - at);
    else
        snprintf(name + at, 40 - at, "vmx_0x%02" PRIx64, reason & 0xffff);
}

const char *exit_reason_name(uint64_t isa, uint64_t reason, char name[40])
{
    const char *found;

    if (isa == EXIT_ISA_VMX) {
        vmx_name(reason, name);
        return name;
    }
    found = lookup(svm_reasons, sizeof svm_reasons / sizeof svm_reasons[0],
                   (uint32_t)reason);
    if (isa == EXIT_ISA_SVM && found)
        spell(found, name, 40);
    else
        snprintf(name, 40, "%s_0x%02" PRIx64,
                 isa == EXIT_ISA_SVM ? "svm" : "isa", reason);
    return name;
}
