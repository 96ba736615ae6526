/* Numeric exit reasons of the kvm:kvm_exit tracepoint to names. */
#ifndef HARNESS_COUNTERS_EXIT_REASONS_H
#define HARNESS_COUNTERS_EXIT_REASONS_H

#include <stdint.h>

/* The tracepoint's `isa` field (linux/arch/x86/kvm/trace.h). */
enum exit_isa { EXIT_ISA_VMX = 1, EXIT_ISA_SVM = 2 };

/*
 * Writes the name to `name` (40 bytes are enough) and returns it: lower case
 * with underscores, each vendor's own (SDM vol. 3, appendix C; APM vol. 2,
 * appendix C), for example ept_violation or npf. What the tables lack becomes
 * vmx_0x12 or svm_0x34. Of VMX's reason only bits 15:0 name the cause; a
 * failed VM entry (bit 31) gets the prefix failed_vmentry_.
 */
const char *exit_reason_name(uint64_t isa, uint64_t reason, char name[40]);

#endif
