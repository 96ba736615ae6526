/* `memvirt walk`: one translation explained. */
#include "base/parse.h"
#include "harness/commands.h"
#include "harness/profile.h"
#include "harness/walk_ask.h"
#include "harness/walk_print.h"

#include <errno.h>
#include <getopt.h>
#include <string.h>

#define DEFAULT_ADDRESS "0x7f1234567abc"

static const char help[] =
    "Usage: memvirt walk [OPTION...] [ADDRESS]\n"
    "\n"
    "Explains one translation: builds page tables for ADDRESS "
    "(default\n" DEFAULT_ADDRESS
    "), has them walked as the architecture says, and prints\n"
    "every entry read, in order, and what each of a CPU's caches would save.\n"
    "\n"
    "  -t, --technique NAME   native (default), nested, shadow\n"
    "      --levels G+H       4+4, 4+5, 5+4, 5+5: of the guest's and the\n"
    "                         host's tables; native and shadow: 4 or 5\n"
    "      --guest-page SIZE  4K, 2M, 1G: of the guest, or the only one\n"
    "      --host-page SIZE   4K, 2M, 1G\n"
    "      --format NAME      ept (default), npt: of the host's tables\n"
    "      --access KIND      read (default), write, fetch\n"
    "      --user, --kernel   who accesses (default: the user), and whose\n"
    "                         page it is without --prot\n"
    "      --prot LETTERS     of the page: some of r, w, x, u (user), or none\n"
    "      --host-prot LETTERS  the host's: some of r, w, x\n"
    "      --state LIST       switches of the CPU, off with a minus: wp, nxe,\n"
    "                         smep, smap (on); pke, ac (off); 1g (on);\n"
    "                         of EPT: ept-ad (on), mbec, execute-only,\n"
    "                         advanced (off)\n"
    "      --pkru VALUE       rights of the protection keys, with pke\n"
    "      --entry WHICH:CHANGES  changes an entry before the walk. WHICH:\n"
    "                         leaf, pte, pde, pdpte, pml4e, pml5e; ept-pte,\n"
    "                         npt-pte, ... of the walk for the access's\n"
    "                         address; pde/ept-pte, ... for the guest's "
    "PDE's.\n"
    "                         CHANGES: +flag, -flag, =VALUE. Repeatable.\n"
    "      --end NAME[@WHICH]  how it shall end (below), by an entry (leaf)\n"
    "      --cpu PROFILE      whose caches: a name (memvirt list) or a file\n"
    "                         (default skylake-sp; with NPT zen3)\n"
    "      --json             one JSON object instead of text\n"
    "\n"
    "Endings:\n";

static const char examples[] =
    "\n"
    "Examples:\n"
    "  memvirt walk 0x7f1234567abc\n"
    "  memvirt walk -t nested                       24 references\n"
    "  memvirt walk -t nested --levels 5+5          35\n"
    "  memvirt walk -t nested --guest-page 2M --host-page 2M --cpu zen4 "
    "--format npt\n"
    "  memvirt walk -t shadow --access write\n"
    "  memvirt walk --end not-present@pde\n"
    "  memvirt walk -t nested --end violation@pde/ept-pte\n"
    "  memvirt walk --kernel --prot rwu             SMAP's page fault\n"
    "  memvirt walk -t nested --json | jq .again\n";

enum {
    OPT_LEVELS = 256,
    OPT_GUEST_PAGE,
    OPT_HOST_PAGE,
    OPT_FORMAT,
    OPT_ACCESS,
    OPT_USER,
    OPT_KERNEL,
    OPT_PROT,
    OPT_HOST_PROT,
    OPT_STATE,
    OPT_PKRU,
    OPT_ENTRY,
    OPT_END,
    OPT_CPU,
    OPT_JSON,
};

static const struct option options[] = {
    {"technique", required_argument, NULL, 't'},
    {"levels", required_argument, NULL, OPT_LEVELS},
    {"guest-page", required_argument, NULL, OPT_GUEST_PAGE},
    {"host-page", required_argument, NULL, OPT_HOST_PAGE},
    {"format", required_argument, NULL, OPT_FORMAT},
    {"access", required_argument, NULL, OPT_ACCESS},
    {"user", no_argument, NULL, OPT_USER},
    {"kernel", no_argument, NULL, OPT_KERNEL},
    {"prot", required_argument, NULL, OPT_PROT},
    {"host-prot", required_argument, NULL, OPT_HOST_PROT},
    {"state", required_argument, NULL, OPT_STATE},
    {"pkru", required_argument, NULL, OPT_PKRU},
    {"entry", required_argument, NULL, OPT_ENTRY},
    {"end", required_argument, NULL, OPT_END},
    {"cpu", required_argument, NULL, OPT_CPU},
    {"json", no_argument, NULL, OPT_JSON},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

struct arguments {
    struct walk_question question;
    struct mmu_profile profile;
    const char *address, *levels, *prot, *host_prot, *end, *cpu;
    const char *host_page, *format;
    const char *entry[WALK_CHANGES_MAX];
    unsigned entries;
    bool json;
};

/* ---- Arguments ----------------------------------------------------------- */

/* Which of the names `text` is, from 0. */
static int choose(const char *option, const char *text,
                  const char *const *names, int *choice, struct why *why)
{
    char list[64] = "";

    for (*choice = 0; names[*choice]; ++*choice) {
        if (!strcmp(text, names[*choice]))
            return 0;
        strcat(list, *choice ? ", " : "");
        strcat(list, names[*choice]);
    }
    return why_set(why, EINVAL, "%s: '%.30s' is none of %s", option, text,
                   list);
}

static int take_page(const char *option, const char *text, uint64_t *bytes,
                     struct why *why)
{
    int err = parse_size(text, bytes, why);

    if (!err && !pt_leaf_level(*bytes))
        err = why_set(why, EINVAL, "%s: '%.20s' is not 4K, 2M or 1G", option,
                      text);
    return err;
}

static int take_choice(int option, struct walk_question *q, struct why *why)
{
    static const char *const techniques[] = {"native", "nested", "shadow",
                                             NULL};
    static const char *const accesses[] = {"read", "write", "fetch", NULL};
    int choice = 0, err;

    if (option == 't') {
        err = choose("--technique", optarg, techniques, &choice, why);
        q->technique = (enum walk_technique)choice;
    } else {
        err = choose("--access", optarg, accesses, &choice, why);
        q->request.access = (enum mmu_access)choice;
    }
    return err;
}

static int take_entry(struct arguments *arguments, struct why *why)
{
    if (arguments->entries == WALK_CHANGES_MAX)
        return why_set(why, EINVAL, "--entry: at most %d changes",
                       WALK_CHANGES_MAX);
    arguments->entry[arguments->entries++] = optarg;
    return 0;
}

static bool take_text(int option, struct arguments *arguments)
{
    const struct {
        int option;
        const char **to;
    } texts[] = {
        {OPT_LEVELS, &arguments->levels},
        {OPT_PROT, &arguments->prot},
        {OPT_HOST_PROT, &arguments->host_prot},
        {OPT_END, &arguments->end},
        {OPT_CPU, &arguments->cpu},
        {OPT_HOST_PAGE, &arguments->host_page},
        {OPT_FORMAT, &arguments->format},
    };

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (texts[i].option == option) {
            *texts[i].to = optarg;
            return true;
        }
    return false;
}

static int take_option(int option, struct arguments *arguments, struct why *why)
{
    struct walk_question *q = &arguments->question;
    uint64_t value = 0;
    int err = 0;

    switch (option) {
    case OPT_JSON:
        arguments->json = true;
        return 0;
    case OPT_USER:
    case OPT_KERNEL:
        q->request.user = option == OPT_USER;
        return 0;
    case OPT_GUEST_PAGE:
        return take_page("--guest-page", optarg, &q->guest_page, why);
    case OPT_STATE:
        return walk_ask_state(optarg, q, why);
    case OPT_ENTRY:
        return take_entry(arguments, why);
    case OPT_PKRU:
        err = walk_ask_value(optarg, "--pkru", &value, why);
        q->guest.pkru = (uint32_t)value;
        return !err && value > UINT32_MAX
                   ? why_set(why, EINVAL, "--pkru: PKRU has 32 bits")
                   : err;
    default:
        return take_choice(option, q, why);
    }
}

/* 0 to go on, otherwise an exit status + 1. */
static int parse_arguments(int argc, char **argv, struct arguments *arguments)
{
    struct why why;
    int option, err = 0;

    optind = 1;
    while (!err &&
           (option = getopt_long(argc, argv, "t:h", options, NULL)) != -1) {
        if (option == 'h') {
            fputs(help, stdout);
            walk_ask_ends(stdout);
            fputs(examples, stdout);
            return 1;
        }
        if (option == '?')
            return 3;
        if (!take_text(option, arguments))
            err = take_option(option, arguments, &why);
    }
    if (!err && argc - optind > 1)
        err = why_set(&why, EINVAL,
                      "unexpected '%.40s': one address at a time; see "
                      "'memvirt walk --help'",
                      argv[optind + 1]);
    if (err)
        fprintf(stderr, "memvirt walk: %s\n", why.text);
    else
        arguments->address = optind < argc ? argv[optind] : DEFAULT_ADDRESS;
    return err ? 3 : 0;
}

/* ---- The question -------------------------------------------------------- */

static int take_levels(const char *text, struct walk_question *q,
                       struct why *why)
{
    const bool both = text[0] && text[1] == '+' && text[2] && !text[3];
    const char last = both ? text[2] : text[0];

    if ((!both && (!text[0] || text[1])) ||
        (text[0] != '4' && text[0] != '5') || (last != '4' && last != '5'))
        return why_set(why, EINVAL,
                       "--levels: '%.20s' is none of 4+4, 4+5, 5+4, 5+5 (guest "
                       "+ host), 4 and 5",
                       text);
    if (both && q->technique != WALK_NESTED)
        return why_set(why, EINVAL,
                       "--levels: '%s' has two dimensions; add --technique "
                       "nested, or write %c",
                       text, text[0]);
    q->guest.levels = (unsigned)(text[0] - '0');
    q->nested.levels = (unsigned)(last - '0');
    return 0;
}

/* A page that may not even be read is not present. */
static int take_prot(const char *text, struct walk_question *q, struct why *why)
{
    unsigned mask;
    int err = walk_ask_letters(text, "--prot", "rwxu", &mask, why);

    if (err)
        return err;
    q->rights = (mask & 2 ? PTE_RW : 0) | (mask & 4 ? 0 : PTE_XD) |
                (mask & 8 ? PTE_US : 0);
    return mask ? 0 : walk_ask_entry("leaf:-p", q, why);
}

static int take_host_prot(const char *text, struct walk_question *q,
                          struct why *why)
{
    unsigned mask;
    int err = walk_ask_letters(text, "--host-prot", "rwx", &mask, why);

    if (!err && !(mask & 1) && (!q->nested.execute_only || mask != 4))
        err = why_set(why, EINVAL,
                      "--host-prot: what can be used can be read: add r, or "
                      "use --end violation for a page that is not there");
    q->host_rights = mask; /* the letters are EPT's bits */
    return err;
}

static int take_format(const char *text, struct walk_question *q,
                       struct why *why)
{
    static const char *const formats[] = {"ept", "npt", NULL};
    int choice = 0, err = choose("--format", text, formats, &choice, why);

    if (!err && q->technique != WALK_NESTED)
        err = why_set(why, EINVAL,
                      "--format: only nested paging has EPT or NPT; add "
                      "--technique nested");
    q->nested.format = (enum ept_format)choice;
    return err;
}

/* The host's pages and rights. */
static int take_host(const struct arguments *arguments, struct walk_question *q,
                     struct why *why)
{
    int err = 0;

    if ((arguments->host_page || arguments->host_prot) &&
        q->technique == WALK_NATIVE)
        return why_set(why, EINVAL,
                       "%s: native has no host below; add --technique nested "
                       "or shadow",
                       arguments->host_page ? "--host-page" : "--host-prot");
    if (arguments->host_page)
        err =
            take_page("--host-page", arguments->host_page, &q->host_page, why);
    if (!err && arguments->host_prot)
        err = take_host_prot(arguments->host_prot, q, why);
    if (q->nested.mbec && (q->host_rights & EPT_X))
        q->host_rights |= EPT_XU;
    return err;
}

/* What depends on other options comes last: the technique and the format say
 * what an entry is. */
static int complete(struct arguments *arguments, struct why *why)
{
    struct walk_question *q = &arguments->question;
    int err =
        walk_ask_value(arguments->address, "ADDRESS", &q->request.va, why);

    q->rights = PTE_RW | (q->request.user ? PTE_US : 0);
    if (!err && arguments->levels)
        err = take_levels(arguments->levels, q, why);
    if (!err && arguments->format)
        err = take_format(arguments->format, q, why);
    if (!err && arguments->prot)
        err = take_prot(arguments->prot, q, why);
    if (!err)
        err = take_host(arguments, q, why);
    if (!err && arguments->end)
        err = walk_ask_end(arguments->end, q, why);
    for (unsigned i = 0; !err && i < arguments->entries; i++)
        err = walk_ask_entry(arguments->entry[i], q, why);
    return err;
}

static int load_profile(struct arguments *arguments, struct why *why)
{
    const struct walk_question *q = &arguments->question;
    const bool npt =
        q->technique == WALK_NESTED && q->nested.format == EPT_FORMAT_NPT;
    const char *name = arguments->cpu ? arguments->cpu
                       : npt          ? "zen3"
                                      : "skylake-sp";

    arguments->question.profile = &arguments->profile;
    return profile_load(name, &arguments->profile, why);
}

static int print(const struct arguments *arguments,
                 const struct walk_answer *answer)
{
    json_t *object;
    int err;

    if (!arguments->json) {
        walk_print_text(stdout, &arguments->question, answer);
    } else {
        object = walk_print_json(&arguments->question, answer);
        err = !object || json_dumpf(object, stdout, JSON_INDENT(2));
        json_decref(object);
        putchar('\n');
        if (err)
            return 1;
    }
    return fflush(stdout) ? 1 : 0;
}

int cmd_walk(int argc, char **argv)
{
    struct arguments arguments = {0};
    struct walk_answer answer;
    struct why why;
    int status, err;

    walk_question_default(&arguments.question, 0);
    status = parse_arguments(argc, argv, &arguments);
    if (status)
        return status - 1;
    status = complete(&arguments, &why) ? 2 : 0;
    if (!status)
        status = load_profile(&arguments, &why) ? 1 : 0;
    if (!status && (err = walk_explain(&arguments.question, &answer, &why)))
        status = err == -EINVAL ? 2 : 1;
    if (status) {
        fprintf(stderr, "memvirt walk: %s\n", why.text);
        return status;
    }
    if (print(&arguments, &answer)) {
        fprintf(stderr, "memvirt walk: the output can't be written: %s\n",
                strerror(errno));
        return 1;
    }
    return 0;
}
