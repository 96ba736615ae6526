#include "harness/topology.h"

#include "base/parse.h"

#include <errno.h>
#include <hwloc.h>
#include <numa.h>
#include <numaif.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TARGETS_MAX     1024
#define PLACEMENT_BATCH 1024

/* The objects a CPU list names, in its order. */
struct targets {
    hwloc_topology_t topology;
    hwloc_obj_t objects[TARGETS_MAX];
    unsigned count;
};

static int load(hwloc_topology_t *topology, struct why *why)
{
    if (hwloc_topology_init(topology))
        return why_set(why, ENOMEM, "hwloc does not start");
    if (!hwloc_topology_load(*topology))
        return 0;
    hwloc_topology_destroy(*topology);
    return why_set(why, EIO, "hwloc cannot read this machine's topology");
}

/* "3" or "0-3", both bounds in [0, limit). */
static int parse_range(const char *text, unsigned limit, unsigned *first,
                       unsigned *last)
{
    char *end;
    unsigned long low = strtoul(text, &end, 10), high = low;

    if (end == text || *text == '-' || *text == '+')
        return -EINVAL;
    if (*end == '-' && end[1] >= '0' && end[1] <= '9')
        high = strtoul(end + 1, &end, 10);
    if (*end)
        return -EINVAL;
    if (low > high || high >= limit)
        return -ERANGE;
    *first = (unsigned)low;
    *last = (unsigned)high;
    return 0;
}

static int add_target(struct targets *t, hwloc_obj_t object, const char *text,
                      struct why *why)
{
    if (t->count == TARGETS_MAX)
        return why_set(why, E2BIG, "--cpu: '%s' names too many CPUs", text);
    t->objects[t->count++] = object;
    return 0;
}

/* Plain numbers: what /proc/cpuinfo and taskset call a CPU. */
static int add_numbers(struct targets *t, const char *text, struct why *why)
{
    hwloc_const_cpuset_t all = hwloc_topology_get_allowed_cpuset(t->topology);
    char *valid = NULL;
    unsigned first = 0, last = 0;
    int err = parse_range(text, 1u << 20, &first, &last);

    hwloc_bitmap_list_asprintf(&valid, all);
    for (unsigned cpu = first; !err && cpu <= last; cpu++) {
        hwloc_obj_t pu = hwloc_get_pu_obj_by_os_index(t->topology, cpu);

        err = pu && hwloc_bitmap_isset(all, cpu) ? add_target(t, pu, text, why)
                                                 : -ERANGE;
    }
    if (err == -EINVAL || err == -ERANGE)
        why_set(why, EINVAL,
                "--cpu: '%s' is no CPU here: %s, or an object such as core:0 "
                "or package:0",
                text, valid ? valid : "see lscpu");
    free(valid);
    return err == -ERANGE ? -EINVAL : err;
}

static int add_objects(struct targets *t, const char *text, const char *colon,
                       struct why *why)
{
    char type_name[24];
    hwloc_obj_type_t type;
    unsigned first, last, count;
    int err;

    snprintf(type_name, sizeof type_name, "%.*s", (int)(colon - text), text);
    if (hwloc_type_sscanf(type_name, &type, NULL, 0) ||
        hwloc_get_nbobjs_by_type(t->topology, type) < 1)
        return why_set(why, EINVAL,
                       "--cpu: '%s' is no kind of object here: pu, core, "
                       "package, numanode, l2, l3",
                       type_name);
    count = (unsigned)hwloc_get_nbobjs_by_type(t->topology, type);
    if (parse_range(colon + 1, count, &first, &last))
        return why_set(why, EINVAL,
                       "--cpu: '%s' does not exist: %s:0 to %s:%u do", text,
                       type_name, type_name, count - 1);
    for (err = 0; !err && first <= last; first++)
        err = add_target(t, hwloc_get_obj_by_type(t->topology, type, first),
                         text, why);
    return err;
}

static int add_element(const char *text, void *arg, struct why *why)
{
    const char *colon = strchr(text, ':');

    return colon ? add_objects(arg, text, colon, why)
                 : add_numbers(arg, text, why);
}

static int find_targets(const char *spec, struct targets *t, struct why *why)
{
    int err = load(&t->topology, why);

    t->count = 0;
    if (err)
        return err;
    err = parse_list(spec, "--cpu", add_element, t, why);
    if (err)
        hwloc_topology_destroy(t->topology);
    return err;
}

static int bind_thread(const struct targets *t, hwloc_obj_t object,
                       const char *spec, struct why *why)
{
    const int flags = HWLOC_CPUBIND_THREAD | HWLOC_CPUBIND_STRICT;
    hwloc_bitmap_t now = hwloc_bitmap_alloc();
    int err = 0;

    if (!now)
        return why_set(why, ENOMEM, "out of memory");
    if (hwloc_set_cpubind(t->topology, object->cpuset, flags))
        err = why_set(why, errno, "--cpu: cannot pin to '%s': %s", spec,
                      strerror(errno));
    else if (hwloc_get_cpubind(t->topology, now, HWLOC_CPUBIND_THREAD) ||
             !hwloc_bitmap_isequal(now, object->cpuset))
        err = why_set(why, EIO,
                      "--cpu: the kernel pinned to other CPUs than '%s' (a "
                      "cpuset?)",
                      spec);
    hwloc_bitmap_free(now);
    return err;
}

int topology_pin(const char *spec, unsigned index, struct why *why)
{
    struct targets *t;
    int err;

    if (!*spec)
        return 0;
    t = malloc(sizeof *t);
    if (!t)
        return why_set(why, ENOMEM, "out of memory");
    err = find_targets(spec, t, why);
    if (!err) {
        err = bind_thread(t, t->objects[index % t->count], spec, why);
        hwloc_topology_destroy(t->topology);
    }
    free(t);
    return err;
}

static int add_nodes(const char *text, void *arg, struct why *why)
{
    struct bitmask *nodes = arg, *allowed = numa_get_mems_allowed();
    unsigned first, last;
    int err = parse_range(text, (unsigned)numa_max_node() + 1, &first, &last);

    for (; !err && first <= last; first++)
        if (numa_bitmask_isbitset(allowed, first))
            numa_bitmask_setbit(nodes, first);
        else
            err = -EINVAL;
    numa_bitmask_free(allowed);
    return err ? why_set(why, EINVAL,
                         "--numa: '%s' is no node with memory here: 0 to %d",
                         text, numa_max_node())
               : 0;
}

static int parse_nodes(const char *spec, struct bitmask **nodes,
                       struct why *why)
{
    int err;

    if (numa_available() < 0)
        return why_set(why, ENOTSUP, "--numa: this kernel has no NUMA support");
    *nodes = numa_allocate_nodemask();
    err = parse_list(spec, "--numa", add_nodes, *nodes, why);
    if (err)
        numa_bitmask_free(*nodes);
    return err;
}

int topology_check(const char *cpu_spec, const char *numa_spec, struct why *why)
{
    struct targets *t;
    struct bitmask *nodes;
    int err = 0;

    if (*cpu_spec) {
        t = malloc(sizeof *t);
        if (!t)
            return why_set(why, ENOMEM, "out of memory");
        err = find_targets(cpu_spec, t, why);
        if (!err)
            hwloc_topology_destroy(t->topology);
        free(t);
    }
    if (err || !*numa_spec)
        return err;
    err = parse_nodes(numa_spec, &nodes, why);
    if (!err)
        numa_bitmask_free(nodes);
    return err;
}

int topology_bind(void *addr, size_t bytes, const char *spec, struct why *why)
{
    struct bitmask *nodes;
    int err;

    if (!*spec)
        return 0;
    err = parse_nodes(spec, &nodes, why);
    if (err)
        return err;
    if (mbind(addr, bytes, MPOL_BIND, nodes->maskp, nodes->size + 1,
              MPOL_MF_MOVE | MPOL_MF_STRICT))
        err = why_set(why, errno, "--numa: cannot bind memory to '%s': %s",
                      spec, strerror(errno));
    numa_bitmask_free(nodes);
    return err;
}

static void count_places(const int *status, size_t count,
                         struct topology_placement *placement)
{
    for (size_t i = 0; i < count; i++)
        if (status[i] >= 0 && status[i] < TOPOLOGY_NODES_MAX)
            placement->pages[status[i]]++;
        else
            placement->absent++;
}

int topology_placement(void *addr, size_t bytes, size_t page_bytes,
                       struct topology_placement *placement, struct why *why)
{
    void *pages[PLACEMENT_BATCH];
    int status[PLACEMENT_BATCH];

    *placement = (struct topology_placement){0};
    if (!page_bytes)
        return why_set(why, EINVAL, "pages of 0 bytes");
    for (size_t at = 0; at < bytes;) {
        size_t count = 0;

        for (; count < PLACEMENT_BATCH && at < bytes; at += page_bytes)
            pages[count++] = (char *)addr + at;
        if (move_pages(0, count, pages, NULL, status, 0))
            return why_set(why, errno, "cannot ask where pages lie: %s",
                           strerror(errno));
        count_places(status, count, placement);
    }
    return 0;
}

static unsigned count_of(hwloc_topology_t topology, hwloc_obj_type_t type)
{
    int count = hwloc_get_nbobjs_by_type(topology, type);

    return count > 0 ? (unsigned)count : 0;
}

static uint64_t cache_bytes(hwloc_topology_t topology, hwloc_obj_type_t type)
{
    hwloc_obj_t cache = hwloc_get_obj_by_type(topology, type, 0);

    return cache ? cache->attr->cache.size : 0;
}

void topology_summarize(struct topology_summary *summary)
{
    hwloc_topology_t topology;

    *summary = (struct topology_summary){.memory_bytes =
                                             (uint64_t)sysconf(_SC_PHYS_PAGES) *
                                             (uint64_t)sysconf(_SC_PAGESIZE)};
    if (load(&topology, NULL))
        return;
    summary->packages = count_of(topology, HWLOC_OBJ_PACKAGE);
    summary->cores = count_of(topology, HWLOC_OBJ_CORE);
    summary->pus = count_of(topology, HWLOC_OBJ_PU);
    summary->numa_nodes = count_of(topology, HWLOC_OBJ_NUMANODE);
    summary->l1d_bytes = cache_bytes(topology, HWLOC_OBJ_L1CACHE);
    summary->l2_bytes = cache_bytes(topology, HWLOC_OBJ_L2CACHE);
    summary->l3_bytes = cache_bytes(topology, HWLOC_OBJ_L3CACHE);
    hwloc_topology_destroy(topology);
}
