/* The PVH start info, version 1 (Xen, public/arch-x86/hvm/start_info.h). */
#ifndef WORKLOADS_PVH_H
#define WORKLOADS_PVH_H

#include <stdint.h>

#define PVH_START_MAGIC 0x336ec578u
#define PVH_MEMORY_RAM  1u

struct pvh_start_info {
    uint32_t magic, version, flags, module_count;
    uint64_t modules, command_line, rsdp, memory_map;
    uint32_t memory_map_entries, reserved;
};

struct pvh_module {
    uint64_t address, bytes, command_line, reserved;
};

struct pvh_memory {
    uint64_t address, bytes;
    uint32_t type, reserved;
};

#endif
