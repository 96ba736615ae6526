#include "harness/topology.h"
#include "tests/test.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Pins a thread of its own, so that the test program stays where it is. */
struct pinning {
    const char *spec;
    unsigned index;
    int err;
    struct why why;
    cpu_set_t allowed;
};

static void *pin(void *arg)
{
    struct pinning *p = arg;

    p->err = topology_pin(p->spec, p->index, &p->why);
    sched_getaffinity(0, sizeof p->allowed, &p->allowed);
    return NULL;
}

static struct pinning pinned(const char *spec, unsigned index)
{
    struct pinning p = {.spec = spec, .index = index};
    pthread_t thread;

    if (pthread_create(&thread, NULL, pin, &p))
        abort();
    pthread_join(thread, NULL);
    return p;
}

/* The first CPU this process may use, by the kernel's number. */
static int first_cpu(void)
{
    cpu_set_t allowed;
    int cpu = 0;

    sched_getaffinity(0, sizeof allowed, &allowed);
    while (!CPU_ISSET(cpu, &allowed))
        cpu++;
    return cpu;
}

static void pins_to_a_cpu(void)
{
    struct pinning p;
    char spec[16];

    snprintf(spec, sizeof spec, "%d", first_cpu());
    p = pinned(spec, 0);
    CU_ASSERT_EQUAL(p.err, 0);
    CU_ASSERT_EQUAL(CPU_COUNT(&p.allowed), 1);
    CU_ASSERT(CPU_ISSET(first_cpu(), &p.allowed));
    p = pinned("pu:0", 0);
    CU_ASSERT_EQUAL(p.err, 0);
    CU_ASSERT_EQUAL(CPU_COUNT(&p.allowed), 1);
}

static void pins_round_and_round(void)
{
    struct pinning a, b, c;

    if (sysconf(_SC_NPROCESSORS_ONLN) < 2 || pinned("pu:1", 0).err) {
        test_skip("needs two CPUs");
        return;
    }
    a = pinned("pu:0-1", 0);
    b = pinned("pu:0,pu:1", 1);
    c = pinned("pu:0-1", 2);
    CU_ASSERT_FALSE(CPU_EQUAL(&a.allowed, &b.allowed));
    CU_ASSERT(CPU_EQUAL(&a.allowed, &c.allowed));
}

static void refuses(const char *spec, const char *hint)
{
    struct pinning p = pinned(spec, 0);

    CU_ASSERT_EQUAL(p.err, -EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(p.why.text, hint));
}

static void bad_cpus_are_named(void)
{
    refuses("core:9999", "core:0");
    refuses("core:", "core:0");
    refuses("core:1-0", "core:0");
    refuses("core:-1", "core:0");
    refuses("wheel:0", "package");
    refuses("9999", "core:0");
    refuses("0x", "core:0");
    refuses("pu:0,,pu:0", "empty");
    refuses("99999999999999999999", "core:0");
    CU_ASSERT_EQUAL(pinned("", 3).err, 0);
}

static void bad_nodes_are_named(void)
{
    struct why why;

    CU_ASSERT_EQUAL(topology_check("", "", &why), 0);
    if (topology_check("pu:0", "0", &why)) {
        test_skip("%s", why.text);
        return;
    }
    CU_ASSERT_EQUAL(topology_check("", "999", &why), -EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "0 to"));
    CU_ASSERT_EQUAL(topology_check("", "x", &why), -EINVAL);
    CU_ASSERT_EQUAL(topology_check("", "0,", &why), -EINVAL);
}

/* N0=<pages> of the mapping in /proc/self/numa_maps. */
static long numa_maps_pages(const void *addr)
{
    char *line = NULL, start[32];
    FILE *maps = fopen("/proc/self/numa_maps", "re");
    size_t size = 0;
    long pages = -1;

    snprintf(start, sizeof start, "%lx ", (unsigned long)addr);
    while (maps && getline(&line, &size, maps) > 0) {
        const char *node = strstr(line, " N0=");

        if (!strncmp(line, start, strlen(start)) && node)
            pages = strtol(node + 4, NULL, 10);
    }
    free(line);
    if (maps)
        fclose(maps);
    return pages;
}

static void bound_memory_is_read_back(void)
{
    const size_t bytes = 64 * 4096;
    struct topology_placement placement;
    struct why why;
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    madvise(memory, bytes, MADV_NOHUGEPAGE);
    if (topology_bind(memory, bytes, "0", &why)) {
        test_skip("%s", why.text);
        return;
    }
    memset(memory, 1, bytes / 2);
    CU_ASSERT_EQUAL(topology_placement(memory, bytes, 4096, &placement, &why),
                    0);
    CU_ASSERT_EQUAL(placement.pages[0], 32);
    CU_ASSERT_EQUAL(placement.absent, 32);
    if (numa_maps_pages(memory) >= 0)
        CU_ASSERT_EQUAL(numa_maps_pages(memory), 32);
    munmap(memory, bytes);
}

static void summary_counts_what_runs(void)
{
    struct topology_summary summary;

    topology_summarize(&summary);
    CU_ASSERT_EQUAL(summary.pus, sysconf(_SC_NPROCESSORS_ONLN));
    CU_ASSERT(summary.cores >= 1 && summary.cores <= summary.pus);
}

TEST_SUITE(topology, {"pins to a CPU", pins_to_a_cpu},
           {"pins round and round", pins_round_and_round},
           {"bad CPUs are named", bad_cpus_are_named},
           {"bad nodes are named", bad_nodes_are_named},
           {"bound memory is read back", bound_memory_is_read_back},
           {"the summary counts what runs", summary_counts_what_runs});
