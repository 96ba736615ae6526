/* The VMM's half of a trace: what translated code and the monitor logged
 * (bt/trace.h) becomes events. */
#ifndef VMM_RECORDER_H
#define VMM_RECORDER_H

#include "bt/trace.h"
#include "vmm/vm_private.h"

struct recorder;

/* Guest-physical addresses are below `ram_end`; `area` and `va` are of the
 * kernel's translations (bt/cache.h). NULL without memory. */
struct recorder *recorder_create(struct vm *vm, uint64_t ram_end, uint8_t *area,
                                 uint64_t va);
void recorder_destroy(struct recorder *recorder);

struct bt_trace *recorder_trace(struct recorder *recorder);

/* What the guest finds: the tables it starts on. */
void recorder_begin(struct recorder *recorder, uint64_t cr3);
/* Empties the log. 0, -EINVAL when it isn't what we write, -EPIPE when nobody
 * takes the events. */
int recorder_drain(struct recorder *recorder);
void recorder_mark(struct recorder *recorder, enum wl_phase phase, bool begin);
int recorder_end(struct recorder *recorder);

#endif
