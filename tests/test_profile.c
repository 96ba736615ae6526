/*
 * CPU profiles: those that are shipped load, with the numbers their sources
 * give; what is cut off, wrong or hostile is one sentence with file, line and
 * cause.
 */
#include "harness/profile.h"
#include "harness/settings.h"
#include "tests/test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The smallest profile there is. Line 2 is the name's. */
static const char *const small[] = {
    "profile: {\n",
    "name = \"small\"; cpu = \"none\"; walkers = 1;\n",
    "tlb: { splinters = [true, false]; structures = (\n",
    "{ name = \"L1\"; level = 1; accesses = [\"read\", \"write\", "
    "\"fetch\"];\n",
    "pages = [\"4K\"]; entries = 12; ways = 3; cycles = 0; }\n",
    "); };\n",
    "psc: { cycles = 0; };\n",
    "psc_nested: { cycles = 1; unified: { entries = 24; ways = 24; }; };\n",
    "nested_tlb: { };\n",
    "data_caches: { line_bytes = 64; levels = (\n",
    "{ bytes = 32768; ways = 8; cycles = 4; } );\n",
    "memory_cycles = 200; };\n",
    "};\n",
};
#define SMALL_LINES (sizeof small / sizeof small[0])

/* The small profile with `from` replaced by `to`; `from` NULL: as it is. */
static char *variant(const char *from, const char *to)
{
    char *text = calloc(1, 4096), *edited = calloc(1, 4096), *at;

    for (size_t i = 0; i < SMALL_LINES; i++)
        strcat(text, small[i]);
    at = from ? strstr(text, from) : text;
    CU_ASSERT_PTR_NOT_NULL_FATAL(at);
    if (from)
        snprintf(edited, 4096, "%.*s%s%s", (int)(at - text), text, to,
                 at + strlen(from));
    else
        strcpy(edited, text);
    free(text);
    return edited;
}

static int parse(const char *text, struct mmu_profile *profile, struct why *why)
{
    return profile_parse("x.conf", text, strlen(text), profile, why);
}

static void refused(const char *from, const char *to, int line, int err,
                    const char *cause)
{
    struct mmu_profile profile = {.walkers = 77};
    char *text = variant(from, to), start[32];
    struct why why = {""};

    snprintf(start, sizeof start, "x.conf:%d: ", line);
    CU_ASSERT_EQUAL(parse(text, &profile, &why), -err);
    if (strncmp(why.text, start, strlen(start)) || !strstr(why.text, cause) ||
        strchr(why.text, '\n')) {
        printf("\n    '%s' -> '%s': %s\n", from, to, why.text);
        CU_FAIL("the sentence lacks file, line or cause");
    }
    CU_ASSERT_EQUAL(profile.walkers, 77);
    free(text);
}

static void loads(void)
{
    struct mmu_profile profile;
    char *text = variant(NULL, NULL);
    struct why why = {""};

    CU_ASSERT_EQUAL_FATAL(parse(text, &profile, &why), 0);
    CU_ASSERT_STRING_EQUAL(profile.name, "small");
    CU_ASSERT_EQUAL(profile.tlb.count, 1);
    CU_ASSERT_EQUAL(profile.tlb.structure[0].entries, 12);
    CU_ASSERT_EQUAL(profile.tlb.structure[0].ways, 3);
    CU_ASSERT_EQUAL(profile.tlb.structure[0].accesses, 7);
    CU_ASSERT_EQUAL(profile.tlb.structure[0].sizes, 1);
    CU_ASSERT(profile.tlb.splinters[0]);
    CU_ASSERT(!profile.tlb.splinters[1]);
    CU_ASSERT_EQUAL(profile.psc.unified.entries, 0);
    CU_ASSERT_EQUAL(profile.psc_nested.unified.entries, 24);
    CU_ASSERT_EQUAL(profile.nested_tlb.entries, 0);
    CU_ASSERT_EQUAL(profile.dcache.levels, 1);
    CU_ASSERT_EQUAL(profile.dcache.level[0].bytes, 32768);
    CU_ASSERT_EQUAL(profile.dcache.memory_cycles, 200);
    free(text);
}

static void impossible_geometries(void)
{
    refused("entries = 12", "entries = 13", 4, EINVAL,
            "3 ways do not divide 13 entries");
    refused("entries = 12", "entries = 0", 4, EINVAL, "entries are 0");
    refused("ways = 3", "ways = 0", 4, EINVAL, "ways are 0");
    refused("entries = 12", "entries = 3000000000L", 4, E2BIG, "too many");
    refused("entries = 12", "entries = -12", 5, EINVAL, "-12");
    refused("entries = 12", "entries = 99999999999999999999", 5, EINVAL, "not");
    refused("ways = 3", "ways = 24", 4, EINVAL, "do not divide");
    refused("ways = 24", "ways = 7", 8, EINVAL, "7 ways do not divide 24");
    refused("bytes = 32768", "bytes = 32769", 11, EINVAL, "whole number");
    refused("bytes = 32768", "bytes = 0", 11, EINVAL, "entries are 0");
    refused("bytes = 32768", "bytes = 4611686018427387904L", 11, E2BIG,
            "too many");
    refused("line_bytes = 64", "line_bytes = 63", 10, EINVAL, "63");
    refused("line_bytes = 64", "line_bytes = 0", 10, EINVAL, "0");
    refused("cycles = 4;", "cycles = 2000000;", 11, EINVAL, "2000000");
}

static void wrong_settings(void)
{
    refused("walkers = 1", "walkers = 0", 1, EINVAL, "walkers are 0");
    refused("walkers = 1", "walkers = 1.5", 2, EINVAL, "whole number");
    refused("walkers = 1", "walkerz = 1", 2, EINVAL, "unknown key walkerz");
    refused("walkers = 1;", "", 1, EINVAL, "lacks walkers");
    refused("nested_tlb: { };", "", 1, EINVAL, "lacks nested_tlb");
    refused("psc: { cycles = 0; };", "psc = 3;", 7, EINVAL, "no group");
    refused("psc: { cycles", "psc: { pml6e = 2; cycles", 7, EINVAL, "pml6e");
    refused("unified: {", "pde: { entries = 4; ways = 4; }; unified: {", 8,
            EINVAL, "unified and also pde");
    refused("level = 1", "level = 3", 4, EINVAL, "3");
    refused("level = 1", "level = 2", 3, EINVAL, "level 1");
    refused("\"fetch\"", "\"peek\"", 4, EINVAL, "peek");
    refused("\"fetch\"", "\"read\"", 4, EINVAL, "twice");
    refused("[\"4K\"]", "[]", 5, EINVAL, "array");
    refused("[\"4K\"]", "[4096]", 5, EINVAL, "number");
    refused("[\"4K\"]", "\"4K\"", 5, EINVAL, "array");
    refused("[\"4K\"]", "[\"2M\"]", 3, EINVAL, "4K");
    refused("\"small\"", "\"\"", 2, EINVAL, "1 to 31");
    refused("\"small\"", "\"a\\x1b[2J\"", 2, EINVAL, "printable");
    refused("[true, false]", "[true]", 3, EINVAL, "truth");
    refused("structures = (", "structures = (1, ", 3, EINVAL, "no group");
}

static void hostile_text(void)
{
    static const char nul[] = "profile: {\n\0};\n";
    struct mmu_profile profile;
    struct why why = {""};
    char *large = malloc(SETTINGS_BYTES_MAX + 1);

    refused("psc: {", "\n@include \"/etc/passwd\"\npsc: {", 8, EINVAL,
            "@include");
    refused("psc: {", "psc: { {", 7, EINVAL, "syntax error");
    refused("name =", "name = \"again\"; name =", 2, EINVAL, "duplicate");
    refused("walkers = 1", "walkers = 1 \"one\"", 2, EINVAL, "a text where");
    refused("psc: {", "\"psc\": {", 7, EINVAL, "a text where");
    refused("profile: {", "other = 1; profile: {", 1, EINVAL, "key other");
    CU_ASSERT_EQUAL(
        profile_parse("x.conf", nul, sizeof nul - 1, &profile, &why), -EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "x.conf:2: a NUL"));
    memset(large, '[', SETTINGS_BYTES_MAX + 1);
    CU_ASSERT_EQUAL(
        profile_parse("x.conf", large, SETTINGS_BYTES_MAX + 1, &profile, &why),
        -E2BIG);
    memcpy(large, "a = (", 5);
    memset(large + 5, '(', SETTINGS_BYTES_MAX - 5);
    CU_ASSERT_EQUAL(
        profile_parse("x.conf", large, SETTINGS_BYTES_MAX, &profile, &why),
        -EINVAL);
    CU_ASSERT_EQUAL(profile_parse("x.conf", NULL, 0, &profile, &why), -EINVAL);
    free(large);
}

/* Cut off anywhere before its last brace, a profile is none. */
static void truncated(void)
{
    struct mmu_profile profile;
    char *text = variant(NULL, NULL);
    size_t whole = (size_t)(strrchr(text, '}') - text);

    for (size_t count = 0; count <= whole; count++) {
        struct why why = {""};

        CU_ASSERT_EQUAL(profile_parse("x.conf", text, count, &profile, &why),
                        -EINVAL);
        CU_ASSERT_EQUAL(strncmp(why.text, "x.conf:", 7), 0);
    }
    free(text);
}

static void no_file(void)
{
    struct mmu_profile profile;
    struct why why = {""};

    CU_ASSERT_EQUAL(profile_load("no-such-cpu", &profile, &why), -ENOENT);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "no-such-cpu.conf"));
    CU_ASSERT_EQUAL(profile_load("/dev/zero", &profile, &why), -EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "/dev/zero"));
}

static int load_one(const char *name, void *arg)
{
    struct mmu_profile profile;
    struct why why = {""};
    unsigned *count = arg;
    size_t bytes;
    int err = profile_load(name, &profile, &why);

    if (err) {
        printf("\n    %s\n", why.text);
        return err;
    }
    CU_ASSERT_STRING_EQUAL(profile.name, name);
    CU_ASSERT_EQUAL(tlb_bytes(&profile.tlb, &bytes, NULL), 0);
    CU_ASSERT_EQUAL(psc_bytes(&profile.psc, &bytes, NULL), 0);
    CU_ASSERT_EQUAL(psc_bytes(&profile.psc_nested, &bytes, NULL), 0);
    CU_ASSERT_EQUAL(dcache_bytes(&profile.dcache, &bytes, NULL), 0);
    ++*count;
    return 0;
}

/* Entries of the structure that is called so; 0 when there is none. */
static uint32_t entries_of(const char *cpu, const char *structure)
{
    struct mmu_profile profile;
    struct why why;

    if (profile_load(cpu, &profile, &why))
        return 0;
    for (unsigned i = 0; i < profile.tlb.count; i++)
        if (!strcmp(profile.tlb.structure[i].name, structure))
            return profile.tlb.structure[i].entries;
    return 0;
}

static void shipped(void)
{
    unsigned count = 0;
    struct why why;

    CU_ASSERT_EQUAL(profile_each(load_one, &count, &why), 0);
    CU_ASSERT(count >= 8);
    CU_ASSERT_EQUAL(entries_of("haswell-ep", "L1D 1G"), 4);
    CU_ASSERT_EQUAL(entries_of("skylake-sp", "L2"), 1536);
    CU_ASSERT_EQUAL(entries_of("icelake-sp", "L2 4K+1G"), 1024);
    CU_ASSERT_EQUAL(entries_of("sapphire-rapids", "L1I 4K"), 256);
    CU_ASSERT_EQUAL(entries_of("zen2", "L2D"), 2048);
    CU_ASSERT_EQUAL(entries_of("zen3", "L2D 1G"), 64);
    CU_ASSERT_EQUAL(entries_of("zen4", "L1D"), 72);
    CU_ASSERT_EQUAL(entries_of("zen4", "L2D"), 3072);
    CU_ASSERT_EQUAL(entries_of("ideal", "L2"), 1536);
}

TEST_SUITE(profile, {"a profile loads", loads}, {"shipped profiles", shipped},
           {"impossible geometries", impossible_geometries},
           {"wrong settings", wrong_settings}, {"hostile text", hostile_text},
           {"cut off", truncated}, {"no such file", no_file});
