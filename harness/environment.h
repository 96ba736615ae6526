/* What a result was measured on: environment.json, and the readings behind it
 * that `memvirt doctor` shares. */
#ifndef HARNESS_ENVIRONMENT_H
#define HARNESS_ENVIRONMENT_H

#include "base/why.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * Writes one JSON object (docs/csv.md). What cannot be found out is left out;
 * only a file that cannot be written is an error, a negative errno.
 */
int environment_write(const char *path, struct why *why);

/* The first line of a file without its end; "" when there is none. Returns
 * `line`. */
const char *environment_line(const char *path, char *line, unsigned bytes);

/* The same of a field in /proc/cpuinfo, first CPU. */
const char *environment_cpuinfo(const char *field, char *value, unsigned bytes);

/* The chosen word of "always [madvise] never"; "" when there is none. */
const char *environment_choice(const char *path, char *word, unsigned bytes);

/* A pool of huge pages; 0 pages where the size is not known to the kernel. */
struct hugepage_pool {
    bool exists;
    uint64_t total, free;
};
struct hugepage_pool environment_hugepages(uint64_t page_bytes);

/* CPUID leaf 1, ECX bit 31: we are ourselves in a VM. */
bool environment_in_vm(void);

/* As KVM tells a new vCPU; 0 when not known. */
uint32_t environment_tsc_khz(void);

#endif
