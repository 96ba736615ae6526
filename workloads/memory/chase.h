/* The list that chase follows; apart from the workload so that it can be
 * tested. */
#ifndef WORKLOADS_MEMORY_CHASE_H
#define WORKLOADS_MEMORY_CHASE_H

#include <stdint.h>

union chase_node {
    uint64_t page; /* while the list is built */
    union chase_node *next;
};

/* The node of one 4 KiB page: one line, not the same in every page. */
union chase_node *chase_node(void *base, uint64_t page);

/* Links the nodes of `pages` > 0 pages into one random cycle (Sattolo's
 * algorithm, Information Processing Letters 22, 1986), in place. */
void chase_build(void *base, uint64_t pages, uint64_t seed);

#endif
