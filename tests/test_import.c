/* Other tools' traces: by hand, and from Valgrind itself. */
#include "base/program.h"
#include "mmu/walk.h"
#include "tests/test.h"
#include "trace/import.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#define ACCESSES_MAX 4096

/* What an import gave, and how it ended. */
struct result {
    struct raw_access accesses[ACCESSES_MAX];
    size_t count;
    int err;
    struct why why;
};

static void drain(struct raw_source *source, struct result *result)
{
    long got = 1;

    while (got > 0 && result->count < ACCESSES_MAX) {
        size_t room = ACCESSES_MAX - result->count;

        got = source->read(source, result->accesses + result->count,
                           room < 7 ? room : 7, &result->why);
        result->count += got > 0 ? (size_t)got : 0;
    }
    result->err = got < 0 ? (int)got : 0;
    source->close(source);
}

static struct result *import_path(const char *kind, const char *path,
                                  const struct trace_import_options *options)
{
    struct result *result = calloc(1, sizeof *result);
    struct raw_source *source;

    result->err = trace_import_open(kind, path, options, &source, &result->why);
    if (!result->err)
        drain(source, result);
    return result;
}

static struct result *import_bytes(const char *kind, const void *bytes,
                                   size_t count,
                                   const struct trace_import_options *options)
{
    int fd = memfd_create("import", MFD_CLOEXEC);
    struct result *result;
    char path[64];

    CU_ASSERT_EQUAL(write(fd, bytes, count), (ssize_t)count);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    result = import_path(kind, path, options);
    close(fd);
    return result;
}

static const struct trace_import_options data_only = {.levels = 4};
static const struct trace_import_options all = {.fetches = true, .levels = 4};

/* The accesses as text: "R 1000 4\n" and so on. */
static void gives(struct result *result, const char *want)
{
    static char got[ACCESSES_MAX * 32];
    size_t at = 0;

    got[0] = 0;
    for (size_t i = 0; i < result->count; i++)
        at += (size_t)snprintf(got + at, sizeof got - at, "%c %llx %u\n",
                               "RWF"[result->accesses[i].access],
                               (unsigned long long)result -> accesses[i].va,
                               result->accesses[i].bytes);
    CU_ASSERT_EQUAL(result->err, 0);
    CU_ASSERT_STRING_EQUAL(result->why.text, "");
    CU_ASSERT_STRING_EQUAL(got, want);
    free(result);
}

/* An error whose sentence has a file and then `cause`. */
static void refuses(struct result *result, const char *cause)
{
    CU_ASSERT_EQUAL(result->err, -EINVAL);
    if (!strstr(result->why.text, cause) ||
        strncmp(result->why.text, "/proc/self/fd/", 14) != 0) {
        fprintf(stderr, "want '%s', got '%s'\n", cause, result->why.text);
        CU_FAIL("another sentence");
    }
    free(result);
}

static struct result *lackey(const char *text,
                             const struct trace_import_options *options)
{
    return import_bytes("lackey", text, strlen(text), options);
}

static const char lackey_text[] = "==123== Lackey, an example Valgrind tool\n"
                                  "--123-- a remark\n"
                                  "**123** a message\n"
                                  "I  04001000,3\n"
                                  " S 1ffeffe7e8,8\n"
                                  "I  04001003,5\n"
                                  " L 04222ca0,16\n"
                                  " M 0421C7CC,4\n"
                                  "==123== Exit code:       0\n";

static void lackey_lines(void)
{
    gives(lackey(lackey_text, &data_only),
          "W 1ffeffe7e8 8\nR 4222ca0 16\nR 421c7cc 4\nW 421c7cc 4\n");
    gives(lackey(lackey_text, &all),
          "F 4001000 3\nW 1ffeffe7e8 8\nF 4001003 5\nR 4222ca0 16\n"
          "R 421c7cc 4\nW 421c7cc 4\n");
}

static void lackey_refuses(void)
{
    static const char *const cases[][2] = {
        {"", "no accesses: valgrind needs"},
        {"==1== Lackey\n", "no accesses: valgrind needs"},
        {"I  400,3\n", "no accesses"},
        {" L 1000,8\nhello\n", "line 2: not a line of lackey's"},
        {" L 1000\n", "line 1: not a line"},
        {" L ,8\n", "line 1: not a line"},
        {" L 1000,\n", "line 1: not a line"},
        {" L 1000,8 \n", "line 1: not a line"},
        {" L 1000,8x\n", "line 1: not a line"},
        {" L 0x1000,8\n", "line 1: not a line"},
        {" L 00000000000001000,8\n", "line 1: not a line"},
        {" X 1000,8\n", "line 1: not a line"},
        {"==12 L 1000,8\n", "line 1: not a line"},
        {" L 1000,8\n S 2000,8", "line 2: ends within the line: truncated"},
        {" L 1000,0\n", "line 1: an access of 0 bytes"},
        {" S 1000,16385\n", "line 1: an access of more than 16 KiB"},
        {" S 1000,9999999999\n", "line 1: not a line"},
        {" L 800000000000,1\n", "line 1: address 0x800000000000 is not canon"},
        {" L 7fffffffffff,2\n", "reaches beyond the lower half"},
        {" L ffff800000000000,2\n", "is in the kernel's half"},
        {" L ffff7fffffffffff,2\n", "is not canonical"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        refuses(lackey(cases[i][0], &data_only), cases[i][1]);
}

static void five_levels(void)
{
    static const struct trace_import_options five = {.levels = 5};

    gives(lackey(" L ffffffffffffff,1\n", &five), "R ffffffffffffff 1\n");
    refuses(lackey(" L 100000000000000,1\n", &five), "not canonical");
}

/* Lines that cross the importer's buffer, and one that is longer. */
static void lackey_long(void)
{
    static char text[1 << 20];
    size_t at = 0, lines = 0;
    struct result *result;

    at += (size_t)snprintf(text, sizeof text, "==1== Command: ");
    memset(text + at, 'x', 200000);
    at += 200000;
    text[at++] = '\n';
    for (; lines < 4000; lines++)
        at += (size_t)snprintf(text + at, sizeof text - at,
                               " L %zx,%zu\n==77== noise\n", lines * 4096 + 1,
                               lines % 8 + 1);
    result = lackey(text, &data_only);
    CU_ASSERT_EQUAL(result->count, 4000);
    for (size_t i = 0; i < result->count; i++)
        CU_ASSERT(result->accesses[i].va == i * 4096 + 1 &&
                  result->accesses[i].bytes == i % 8 + 1);
    free(result);
    memset(text, ' ', 100000);
    text[100000] = 0;
    refuses(lackey(text, &data_only), "line 1: not a line");
}

/* A program whose data accesses are known: 100 stores, a page apart, then 100
 * increments of the same. */
static const char program[] =
    "static volatile unsigned arena[100 * 1024]\n"
    "    __attribute__((section(\".arena,\\\"aw\\\",@nobits#\")));\n"
    "void _start(void) {\n"
    "    for (unsigned i = 0; i < 100; i++) arena[i * 1024] = i;\n"
    "    for (unsigned i = 0; i < 100; i++) arena[i * 1024]++;\n"
    "    __asm__ volatile(\"syscall\" ::\"a\"(60), \"D\"(0));\n"
    "}\n";

/* Runs the program under lackey; the path of what it printed, or NULL. */
static char *run_lackey(const char *folder)
{
    char *output, *log = NULL, path[512];
    FILE *file;
    int status;

    snprintf(path, sizeof path, "%s/a.c", folder);
    file = fopen(path, "we");
    fputs(program, file);
    fclose(file);
    status = test_shell(
        &output,
        "cd %s && gcc -O1 -nostdlib -static -no-pie -fno-stack-protector "
        "-fcf-protection=none -Wl,--section-start=.arena=0x10000000 -o a a.c "
        "&& valgrind --tool=lackey --trace-mem=yes --log-file=log ./a",
        folder);
    if (status || asprintf(&log, "%s/log", folder) < 0)
        log = NULL;
    free(output);
    return log;
}

static void lackey_itself(void)
{
    char *folder = test_folder(), *log;
    struct result *result;
    size_t stores = 0, increments = 0, loads = 0;

    if (!program_in_path("valgrind")) {
        test_skip("valgrind is not installed: apt install valgrind");
        free(folder);
        return;
    }
    log = run_lackey(folder);
    CU_ASSERT_PTR_NOT_NULL_FATAL(log);
    result = import_path("lackey", log, &data_only);
    CU_ASSERT_EQUAL(result->err, 0);
    for (size_t i = 0; i < result->count; i++) {
        const struct raw_access *access = &result->accesses[i];
        size_t page = (access->va - 0x10000000) >> 12;

        if (access->va < 0x10000000 || page >= 100)
            continue; /* the stack */
        CU_ASSERT(access->bytes == 4 && !(access->va & 0xfff));
        if (access->access == MMU_READ) {
            CU_ASSERT(page == loads++ && loads == increments + 1 &&
                      stores == 100);
        } else {
            CU_ASSERT(page == (stores < 100 ? stores++ : increments++));
        }
    }
    CU_ASSERT(stores == 100 && loads == 100 && increments == 100);
    free(result);
    result = import_path("lackey", log, &all);
    CU_ASSERT(result->count > 700);
    CU_ASSERT_EQUAL(result->accesses[0].access, MMU_FETCH);
    free(result);
    free(log);
    free(folder);
}

/* ---- ChampSim ---- */

static void put64(uint8_t *at, uint64_t value)
{
    memcpy(at, &value, 8);
}

/* By offsets, apart from the structure of the code under test. */
static void champsim_record(uint8_t *record, uint64_t ip, uint64_t store0,
                            uint64_t store1, const uint64_t *loads)
{
    memset(record, 0, 64);
    put64(record, ip);
    record[8] = record[9] = 1; /* a branch, taken */
    record[10] = 26;           /* which writes the instruction pointer */
    record[12] = record[15] = 6;
    put64(record + 16, store0);
    put64(record + 24, store1);
    for (unsigned i = 0; i < 4; i++)
        put64(record + 32 + 8 * i, loads[i]);
}

static void champsim_records(void)
{
    uint8_t trace[192];

    champsim_record(trace, 0x400000, 0, 0, (uint64_t[]){0, 0, 0, 0});
    champsim_record(trace + 64, 0x400004, 0x7fff0000, 0,
                    (uint64_t[]){0x1000, 0, 0x3000, 0});
    champsim_record(trace + 128, 0x400008, 0xa000, 0xb000,
                    (uint64_t[]){0x1000, 0x2000, 0x3000, 0x4000});
    gives(import_bytes("champsim", trace, 192, &data_only),
          "R 1000 1\nR 3000 1\nW 7fff0000 1\n"
          "R 1000 1\nR 2000 1\nR 3000 1\nR 4000 1\nW a000 1\nW b000 1\n");
    gives(import_bytes("champsim", trace, 128, &all),
          "F 400000 1\nF 400004 1\nR 1000 1\nR 3000 1\nW 7fff0000 1\n");
}

static void champsim_refuses(void)
{
    uint8_t trace[128], text[256];

    champsim_record(trace, 0x400000, 0, 0, (uint64_t[]){0, 0, 0, 0});
    champsim_record(trace + 64, 0x400004, 1ull << 47, 0,
                    (uint64_t[]){0, 0, 0, 0x5000});
    refuses(import_bytes("champsim", trace, 128, &data_only),
            "record 2: address 0x800000000000 is not canonical");
    put64(trace + 64 + 16, 0xffffffff80000000);
    refuses(import_bytes("champsim", trace, 128, &data_only),
            "record 2: address 0xffffffff80000000 is in the kernel's half");
    refuses(import_bytes("champsim", trace, 64, &data_only),
            "no accesses: its instructions touch no memory");
    refuses(import_bytes("champsim", trace, 0, &data_only), "no accesses");
    trace[64 + 8] = 2;
    refuses(import_bytes("champsim", trace, 128, &data_only),
            "record 2: not a ChampSim instruction");
    memset(text, 'a', sizeof text);
    refuses(import_bytes("champsim", text, 256, &data_only),
            "record 1: not a ChampSim instruction");
    for (size_t count = 65; count < 128; count++)
        refuses(import_bytes("champsim", trace, count, &data_only),
                "record 2: truncated");
}

/* ---- memtrace ---- */

struct memtrace {
    uint8_t bytes[1024];
    size_t count;
};

static void record(struct memtrace *trace, unsigned type, unsigned size,
                   uint64_t address)
{
    uint8_t *at = trace->bytes + trace->count;

    at[0] = (uint8_t)type;
    at[1] = (uint8_t)(type >> 8);
    at[2] = (uint8_t)size;
    at[3] = (uint8_t)(size >> 8);
    put64(at + 4, address);
    trace->count += 12;
}

/* Header, version and file type. */
static void memtrace_begin(struct memtrace *trace, uint64_t version,
                           uint64_t filetype)
{
    record(trace, 25, 0, version);
    record(trace, 28, 12, version);
    record(trace, 28, 9, filetype);
    record(trace, 24, 0, 4711); /* process */
    record(trace, 22, 0, 4712); /* thread */
}

/* A thread with an encoding, every kind of instruction and of access. */
static void memtrace_thread(struct memtrace *trace)
{
    memtrace_begin(trace, 4, 0x40 | 0x200);
    record(trace, 28, 2, 13330000000000000); /* a time */
    record(trace, 47, 3, 0x8b4865);          /* an encoding */
    record(trace, 10, 3, 0x401000);
    record(trace, 0, 8, 0x7fff1000);
    record(trace, 17, 2, 0x0405); /* a bundle: 5 and 4 bytes */
    record(trace, 1, 4, 0x5000);
    record(trace, 3, 64, 0x6000); /* prefetches */
    record(trace, 46, 64, 0xffff800000006000);
    record(trace, 29, 2, 0x401010); /* another iteration: not fetched */
    record(trace, 0, 1, 0x7000);
    record(trace, 49, 2, 0x401020);
    record(trace, 23, 0, 4712);
    record(trace, 26, 0, 0);
}

static struct result *memtrace(const struct memtrace *trace,
                               const struct trace_import_options *options)
{
    return import_bytes("memtrace", trace->bytes, trace->count, options);
}

static void memtrace_records(void)
{
    struct memtrace trace = {.count = 0};

    memtrace_thread(&trace);
    gives(memtrace(&trace, &data_only), "R 7fff1000 8\nW 5000 4\nR 7000 1\n");
    gives(memtrace(&trace, &all),
          "F 401000 3\nR 7fff1000 8\nF 401003 5\nF 401008 4\nW 5000 4\n"
          "R 7000 1\nF 401020 2\n");
    memtrace_thread(&trace); /* another thread's file behind it */
    gives(memtrace(&trace, &data_only), "R 7fff1000 8\nW 5000 4\nR 7000 1\n"
                                        "R 7fff1000 8\nW 5000 4\nR 7000 1\n");
}

static void memtrace_case(uint64_t version, uint64_t filetype, unsigned type,
                          unsigned size, uint64_t address, const char *cause)
{
    struct memtrace trace = {.count = 0};

    memtrace_begin(&trace, version, filetype);
    record(&trace, type, size, address);
    record(&trace, 26, 0, 0);
    refuses(memtrace(&trace, &data_only), cause);
}

static void memtrace_refuses(void)
{
    struct memtrace trace = {.count = 0};

    memtrace_case(1, 0x40, 0, 8, 0x1000, "record 1: a version other than");
    memtrace_case(7, 0x40, 0, 8, 0x1000, "record 1: a version other than");
    memtrace_case(4, 0x08, 0, 8, 0x1000, "record 3: recorded on something");
    memtrace_case(4, 0xc0, 0, 8, 0x1000, "record 3: filtered");
    memtrace_case(4, 0x44, 0, 8, 0x1000, "record 3: has instructions only");
    memtrace_case(4, 0x40, 0, 0, 0x1000, "record 6: an access of 0 bytes");
    memtrace_case(4, 0x40, 1, 0xffff, 0, "record 6: an access of more than");
    memtrace_case(4, 0x40, 0, 8, 1ull << 63, "record 6: address");
    memtrace_case(4, 0x40, 50, 8, 0x1000, "record 6: a record of unknown");
    memtrace_case(4, 0x40, 30, 8, 0x1000, "record 6: a record of unknown");
    memtrace_case(4, 0x40, 25, 0, 4, "record 6: a record of unknown");
    memtrace_case(4, 0x40, 17, 2, 0x101, "record 6: a bundle");
    memtrace_case(4, 0x40, 28, 99, 0, "no accesses");
    record(&trace, 0, 8, 0x1000);
    refuses(memtrace(&trace, &data_only), "record 1: not the header");
    trace.count = 0;
    memtrace_thread(&trace);
    for (size_t count = 1; count < trace.count; count++)
        refuses(import_bytes("memtrace", trace.bytes, count, &data_only),
                "truncated");
}

/* ---- Packed files ---- */

static void packed(void)
{
    char gz[4096], zst[4096], path[512], *folder = test_folder();
    static const char want[] =
        "W 1ffeffe7e8 8\nR 4222ca0 16\nR 421c7cc 4\nW 421c7cc 4\n";
    size_t length = strlen(lackey_text), zst_count, gz_count;
    gzFile file;
    FILE *back;

    zst_count = ZSTD_compress(zst, sizeof zst, lackey_text, length, 3);
    gives(import_bytes("lackey", zst, zst_count, &data_only), want);
    snprintf(path, sizeof path, "%s/a.gz", folder);
    file = gzopen(path, "wb");
    gzwrite(file, lackey_text, (unsigned)length);
    gzclose(file);
    gives(import_path("lackey", path, &data_only), want);
    back = fopen(path, "re");
    gz_count = fread(gz, 1, sizeof gz, back);
    fclose(back);
    for (size_t count = 20; count < gz_count; count++)
        refuses(import_bytes("lackey", gz, count, &data_only), "truncated");
    for (size_t count = 10; count < zst_count; count++)
        refuses(import_bytes("lackey", zst, count, &data_only), "truncated");
    gz[gz_count - 5] ^= 1;
    refuses(import_bytes("lackey", gz, gz_count, &data_only),
            "the gzip file is damaged");
    zst[5] ^= 0x40;
    refuses(import_bytes("lackey", zst, zst_count, &data_only), ":");
    free(folder);
}

/* Two frames, and many times the buffers. */
static void packed_long(void)
{
    static char text[900 * 64], zst[2 * sizeof text];
    size_t half, whole;
    struct result *result;

    for (size_t i = 0; i < 900; i++)
        champsim_record((uint8_t *)text + 64 * i, 0x400000, 0, 0,
                        (uint64_t[]){i + 1, 0, 0, 0});
    half = ZSTD_compress(zst, sizeof zst, text, 100, 3);
    whole = half + ZSTD_compress(zst + half, sizeof zst - half, text + 100,
                                 sizeof text - 100, 3);
    result = import_bytes("champsim", zst, whole, &data_only);
    CU_ASSERT_EQUAL(result->err, 0);
    CU_ASSERT_EQUAL(result->count, 900);
    for (size_t i = 0; i < result->count; i++)
        CU_ASSERT_EQUAL(result->accesses[i].va, i + 1);
    free(result);
}

static void packed_otherwise(void)
{
    refuses(import_bytes("champsim",
                         "\xfd"
                         "7zXZ\0 and more",
                         12, &data_only),
            "packed with xz; use xz -dc /proc");
    refuses(import_bytes("memtrace", "PK\3\4 and more", 12, &data_only),
            "| memvirt model -w memtrace:-");
    refuses(import_bytes("memtrace", "\x04\x22\x4d\x18 more", 9, &data_only),
            "lz4 -dc");
}

static void what_is_not_there(void)
{
    struct result *result = import_path("pin", "/dev/null", &data_only);

    CU_ASSERT_EQUAL(result->err, -EINVAL);
    CU_ASSERT_STRING_EQUAL(
        result->why.text,
        "'pin' is no kind of trace: lackey, champsim, memtrace");
    free(result);
    result = import_path("lackey", "/none/such", &data_only);
    CU_ASSERT_EQUAL(result->err, -ENOENT);
    CU_ASSERT_STRING_EQUAL(result->why.text,
                           "/none/such: No such file or directory");
    free(result);
    result = import_path("lackey", "/", &data_only);
    CU_ASSERT_EQUAL(result->err, -EISDIR);
    free(result);
}

TEST_SUITE(import, {"lackey: lines", lackey_lines},
           {"lackey: what is refused", lackey_refuses},
           {"lackey: long lines", lackey_long},
           {"lackey: Valgrind's own", lackey_itself},
           {"five levels", five_levels},
           {"ChampSim: records", champsim_records},
           {"ChampSim: what is refused", champsim_refuses},
           {"memtrace: records", memtrace_records},
           {"memtrace: what is refused", memtrace_refuses},
           {"packed files", packed}, {"long packed files", packed_long},
           {"packed otherwise", packed_otherwise},
           {"what is not there", what_is_not_there});
