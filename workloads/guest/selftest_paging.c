#include "workloads/guest/selftest.h"

void selftest_paging(struct selftest *t)
{
    (void)t;
}
