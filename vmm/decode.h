/* Instructions of the guest's as the monitor emulates them, decoded with
 * Zydis. The bytes are the guest's and not trusted. */
#ifndef VMM_DECODE_H
#define VMM_DECODE_H

#include "vmm/monitor/insn.h"

#include <stdbool.h>
#include <stddef.h>

/*
 * Decodes the instruction that starts at `bytes`, in 64-bit mode. 0; or
 * -ENODATA when it goes on beyond `count` bytes, and less than 15 were given.
 * What no CPU knows is INSN_UNDEFINED of length 1, and so is what is longer
 * than 15 bytes: the CPU has said #GP for that (SDM vol. 2, 2.3.11) by the time
 * anybody asks. UD0, UD1 and UD2 are INSN_UNDEFINED with their length. What the
 * monitor does not emulate is INSN_UNSUPPORTED.
 *
 * Where vendors differ it is Intel's: 66 does nothing to a near branch.
 */
int decode_insn(const uint8_t *bytes, size_t count, struct insn *insn);

/* The operation in the manual's words, lower case with underscores: "invlpg",
 * "mov_to_cr". NULL for none. */
const char *insn_op_name(unsigned op);

/* Does it tell or change the CPU's state without trapping at CPL 3? (Robin
 * and Irvine, USENIX Security 2000, section 3; and IRET and its like in
 * 64-bit mode.) */
bool insn_is_sensitive(const struct insn *insn);

#endif
