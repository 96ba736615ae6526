/*
 * ChampSim's geometry and its trace format against a simulator that is not
 * ours: Valgrind's cachegrind, told that lines are pages, is a first- and a
 * second-level TLB with LRU. One program is traced by lackey, turned into
 * ChampSim's records and followed by the model; cachegrind runs the same
 * program. The hits of each level agree within 1 %: the model also has a guest
 * kernel, whose page faults and accesses pass the same TLBs.
 */
#include "harness/table.h"
#include "tests/test.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Three working sets: the DTLB holds one nearly, the STLB another, nothing the
 * third. */
static const char program[] =
    "#include <stdint.h>\n"
    "#include <stdlib.h>\n"
    "int main(void)\n"
    "{\n"
    "    size_t n = 32u << 20;\n"
    "    unsigned char *a = calloc(n, 1);\n"
    "    uint64_t x = 1;\n"
    "    unsigned sum = 0;\n"
    "    for (int i = 0; i < 400000; i++) {\n"
    "        uint64_t r = (x = x * 6364136223846793005u + 99) >> 33;\n"
    "        size_t span = i % 4 == 0 ? n : i % 4 == 1 ? 2 << 20 : 256 << 10;\n"
    "        a[r % span] += i;\n"
    "        sum += a[r * 7 % span];\n"
    "    }\n"
    "    return sum == 1;\n"
    "}\n";

/* ChampSim's input_instr: two destinations, four sources, by memory. */
struct record {
    uint64_t ip;
    uint8_t branch[2], registers[6];
    uint64_t destination[2], source[4];
};
_Static_assert(sizeof(struct record) == 64, "as ChampSim's");

struct counts {
    double hits[2]; /* of the data TLB and the shared one */
};

static bool write_program(const char *folder)
{
    char path[300], *output;
    FILE *file;
    int status;

    snprintf(path, sizeof path, "%s/p.c", folder);
    file = fopen(path, "w");
    if (!file)
        return false;
    fputs(program, file);
    fclose(file);
    status = test_shell(&output, "cd '%s' && gcc -O1 -o p p.c", folder);
    free(output);
    return !status;
}

/* The instructions that access memory, in ChampSim's form; how many of them
 * load and store the same, which cachegrind takes for one access. */
static long convert(const char *folder)
{
    struct record record = {.ip = 0};
    char path[300], line[80], kind;
    unsigned long long va;
    long modifies = 0;
    FILE *log, *trace;

    snprintf(path, sizeof path, "%s/log", folder);
    log = fopen(path, "r");
    snprintf(path, sizeof path, "%s/trace", folder);
    trace = fopen(path, "w");
    CU_ASSERT_FATAL(log && trace);
    while (fgets(line, sizeof line, log)) {
        if (sscanf(line, " %c %llx", &kind, &va) != 2 || *line == '=')
            continue;
        if (kind == 'I') {
            record.ip = va;
            continue;
        }
        memset(record.destination, 0, sizeof record.destination);
        memset(record.source, 0, sizeof record.source);
        record.source[0] = kind == 'S' ? 0 : va;
        record.destination[0] = kind == 'L' ? 0 : va;
        modifies += kind == 'M';
        fwrite(&record, sizeof record, 1, trace);
    }
    fclose(log);
    CU_ASSERT_EQUAL(fclose(trace), 0);
    return modifies;
}

/* "D1  misses:       591,879  (..." */
static double number_after(const char *text, const char *label)
{
    const char *at = strstr(text, label);
    double value = 0;

    CU_ASSERT_PTR_NOT_NULL_FATAL(at);
    for (at += strlen(label); *at && *at != '(' && *at != '\n'; at++)
        if (*at >= '0' && *at <= '9')
            value = 10 * value + (*at - '0');
    return value;
}

static struct counts cachegrind(const char *folder, long modifies)
{
    double references, misses[2];
    char *output;
    int status =
        test_shell(&output,
                   "cd '%s' && valgrind --tool=cachegrind --cache-sim=yes "
                   "--cachegrind-out-file=/dev/null --I1=262144,4,4096 "
                   "--D1=262144,4,4096 --LL=6291456,12,4096 ./p 2>&1",
                   folder);

    CU_ASSERT_EQUAL_FATAL(status, 0);
    references = number_after(output, "D   refs:") + (double)modifies;
    misses[0] = number_after(output, "D1  misses:");
    misses[1] = number_after(output, "LLd misses:");
    free(output);
    return (struct counts){{references - misses[0], misses[0] - misses[1]}};
}

static double counter(const struct table *t, const char *name)
{
    double value = 0;

    for (size_t row = 0; row < table_rows(t); row++)
        if (!strcmp(table_cell(t, row, table_column(t, "name")), name))
            table_number(t, row, table_column(t, "value"), &value);
    return value;
}

/* The guest's pages are of 4 KiB; those of 1 GiB are its kernel's. */
static struct counts model(const char *folder)
{
    struct counts counts;
    struct table *t;
    struct why why;
    char path[300], *output;
    int status =
        test_shell(&output,
                   "cd '%s' && \"$MEMVIRT\" model -t native --cpu champsim "
                   "-w champsim:trace --no-figures -o out",
                   folder);

    CU_ASSERT_EQUAL_FATAL(status, 0);
    free(output);
    snprintf(path, sizeof path, "%s/out/counters.csv", folder);
    CU_ASSERT_EQUAL_FATAL(table_read(&t, path, &why), 0);
    counts.hits[0] = counter(t, "tlb_l1_hits_4k");
    counts.hits[1] = counter(t, "tlb_l2_hits_4k");
    table_free(t);
    return counts;
}

static void same_hits(void)
{
    static const char *const names[] = {"DTLB", "STLB"};
    char *folder = test_folder(), *output;
    struct counts expected, found;
    long modifies;

    if (test_shell(&output, "valgrind --version && gcc --version")) {
        test_skip("valgrind or gcc is not installed: apt install valgrind gcc");
        free(output);
        free(folder);
        return;
    }
    free(output);
    CU_ASSERT_FATAL(write_program(folder));
    CU_ASSERT_EQUAL_FATAL(
        test_shell(&output,
                   "cd '%s' && valgrind --tool=lackey --trace-mem=yes "
                   "--log-file=log ./p",
                   folder),
        0);
    free(output);
    modifies = convert(folder);
    expected = cachegrind(folder, modifies);
    found = model(folder);
    for (unsigned i = 0; i < 2; i++) {
        double off = 100 * (found.hits[i] / expected.hits[i] - 1);

        printf("\n    %s hits: cachegrind %.0f, model %.0f (%+.2f %%)",
               names[i], expected.hits[i], found.hits[i], off);
        CU_ASSERT(off > -1 && off < 1);
    }
    test_shell(&output, "rm -rf '%s'", folder);
    free(output);
    free(folder);
}

TEST_SUITE(champsim, {"its TLBs, its traces, another simulator", same_hits});
