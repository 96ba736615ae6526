#include "harness/nano_published.h"

#include <math.h>
#include <string.h>

#define TIME_LIMIT_S 120
/* So many that a block translated in the phase is no share of the cost. */
#define OPERATIONS 10000

int nano_published_plan(struct plan *plan, struct why *why)
{
    const struct plan_request request = {
        .techniques = "native,bt,shadow,nested",
        .workloads = "syscall,in,cr8wr,callret,pgfault,divzero,ptemod",
        .lab_only = true,
        .operations = OPERATIONS,
        .time_limit_s = TIME_LIMIT_S,
    };

    return plan_add(plan, &request, why);
}

/*
 * Cycles of a Pentium 4 672 at 3.8 GHz (that it was this one is from memory):
 * native, software VMM, and hardware VMM, which had VT-x and shadow page
 * tables. As the comments of tests/atomics/at_vmm.cc in github.com/ligurio/
 * openbsd-tests repeat section 6.3; M: from memory, not verified. What is said
 * there in words stands in words.
 */
static const struct row {
    const char *workload;
    const char *native, *bt, *hardware;
    int direction; /* of bt, from hardware: -1 cheaper, 1 dearer */
} rows[] = {
    {"syscall", "242 M", "2308 M", "as native", 1},
    {"in", "3209", "214 M", "15826", -1},
    {"cr8wr", "4 x BT", "35", "as native", -1},
    {"callret", "11", "51", "11", 1},
    {"pgfault", "1093", "3927", "11242", -1},
    {"divzero", "889", "3223", "1014", 1},
    {"ptemod", "1", "391", "12733", -1},
};
#define ROWS (sizeof rows / sizeof rows[0])

static const char remarks[] =
    "  M: from memory, not verified; the others are quoted from section 6.3. "
    "BT "
    "takes about 2000\n"
    "  cycles more than native for syscall and a fifteenth of native for in, "
    "as quoted.\n"
    "  Cycles and instructions are different units: only directions can be "
    "compared.\n"
    "  cr8wr: BT won because the CPU's own MOV to CR8 was slow, which a count "
    "of instructions\n"
    "  can't show; and the hardware VMM had no exit for it, where KVM has "
    "one.\n"
    "  ptemod: the hardware VMM kept its trace. KVM gives it up at the first "
    "write, lets the\n"
    "  table go out of sync, and pays at the guest's next flush; workload "
    "ptebatch has that.\n";

/* Instructions an operation; NAN when there are none. */
static double measured(const struct groups *groups, const char *technique,
                       const char *workload)
{
    for (size_t i = 0; i < groups->count; i++) {
        const struct group *g = &groups->groups[i];

        if (!strcmp(g->platform, "lab-svm") && g->cost.count &&
            !strcmp(g->technique, technique) && !strcmp(g->workload, workload))
            return g->cost.value;
    }
    return NAN;
}

/* Within a hundredth there is none. */
static int direction_of(double bt, double shadow)
{
    if (isnan(bt) || isnan(shadow) || fabs(bt - shadow) <= shadow / 100)
        return 0;
    return bt < shadow ? -1 : 1;
}

static void print_cost(double cost, FILE *to)
{
    if (isnan(cost))
        fprintf(to, " %8s", "-");
    else
        fprintf(to, " %8.*f", cost < 100, cost);
}

static void print_row(const struct row *row, const struct groups *groups,
                      FILE *to)
{
    static const char *const words[] = {"cheaper", "equal", "dearer"};
    static const char *const techniques[] = {"native", "bt", "shadow",
                                             "nested"};
    double bt = measured(groups, "bt", row->workload);
    double shadow = measured(groups, "shadow", row->workload);
    int direction = direction_of(bt, shadow);
    bool known = !isnan(bt) && !isnan(shadow);

    fprintf(to, "  %-8s %7s %7s %10s  %-8s|", row->workload, row->native,
            row->bt, row->hardware, words[1 + row->direction]);
    for (unsigned i = 0; i < 4; i++)
        print_cost(measured(groups, techniques[i], row->workload), to);
    fprintf(to, "  %-8s %s\n", known ? words[1 + direction] : "-",
            !known                        ? "-"
            : direction == row->direction ? "yes"
                                          : "no");
}

void nano_published_print(const struct groups *groups, FILE *to)
{
    fprintf(to,
            "Nanobenchmarks of Adams and Agesen (ASPLOS 2006, section 6.3)\n\n"
            "  %-8s %-35s| %s\n"
            "  %-8s %7s %7s %10s  %-8s| %8s %8s %8s %8s  %-8s %s\n",
            "", "published: cycles, Pentium 4 672",
            "measured: instructions in the lab", "", "native", "BT", "hardware",
            "BT is", "native", "bt", "shadow", "nested", "bt is", "same");
    for (size_t i = 0; i < ROWS; i++)
        print_row(&rows[i], groups, to);
    fprintf(to, "\n%s", remarks);
}
