#include "workloads/guest/selftest.h"

void selftest_segments(struct selftest *t)
{
    (void)t;
}
