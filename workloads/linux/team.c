/*
 * The threads of parallel(). They are created once, at its first call (a
 * workload's warm-up), and sleep between calls, so that a measured call pays
 * for waking them only. The calling thread is member 0.
 */
#include "workloads/linux/state.h"

#include <errno.h>
#include <stdlib.h>

struct member {
    struct linux_team *team;
    pthread_t thread;
    unsigned id;
    sigjmp_buf out;
};

struct linux_team {
    const struct wl_env *env;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    void (*fn)(const struct wl_env *env, void *arg, unsigned id);
    void *arg;
    unsigned round;   /* grows with each call */
    unsigned running; /* members other than 0 that have not finished */
    bool quit;
    bool failed; /* a member gave up; why is in the run's state */
    bool pinned;
    cpu_set_t before; /* the CPUs to return to */
    unsigned size;    /* threads created, member 0 counted */
    struct member members[];
};

/* False when there is nothing more to do. */
static bool next_round(struct linux_team *team, unsigned *round)
{
    bool more;

    pthread_mutex_lock(&team->lock);
    while (team->round == *round && !team->quit)
        pthread_cond_wait(&team->work, &team->lock);
    *round = team->round;
    more = !team->quit;
    pthread_mutex_unlock(&team->lock);
    return more;
}

static void round_done(struct linux_team *team)
{
    pthread_mutex_lock(&team->lock);
    if (!--team->running)
        pthread_cond_signal(&team->done);
    pthread_mutex_unlock(&team->lock);
}

static void run_member(struct member *member)
{
    struct linux_team *team = member->team;

    if (!sigsetjmp(member->out, 0))
        team->fn(team->env, team->arg, member->id);
    round_done(member->team);
}

static void *member_main(void *arg)
{
    struct member *member = arg;
    unsigned round = 0;

    while (next_round(member->team, &round))
        run_member(member);
    return NULL;
}

void linux_team_member_failed(struct linux_team *team, const char *sentence)
{
    struct wl_linux *self;

    if (!team || pthread_equal(pthread_self(), team->members[0].thread))
        return;
    self = wl_linux_of(team->env);
    pthread_mutex_lock(&team->lock);
    if (!team->failed && !self->error)
        self->error = why_set(&self->why, ECANCELED, "%s", sentence);
    team->failed = true;
    pthread_mutex_unlock(&team->lock);
    for (unsigned i = 1; i < team->size; i++)
        if (pthread_equal(pthread_self(), team->members[i].thread))
            siglongjmp(team->members[i].out, 1);
}

/* Member i to the i-th CPU that the caller may use; none when there are not
 * enough. */
static void pin_members(struct linux_team *team)
{
    unsigned id = 0;

    if (pthread_getaffinity_np(pthread_self(), sizeof team->before,
                               &team->before) ||
        (unsigned)CPU_COUNT(&team->before) < team->size)
        return;
    team->pinned = true;
    for (int cpu = 0; cpu < CPU_SETSIZE && id < team->size; cpu++) {
        cpu_set_t set;

        if (!CPU_ISSET(cpu, &team->before))
            continue;
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        pthread_setaffinity_np(team->members[id++].thread, sizeof set, &set);
    }
}

static int team_create(struct wl_linux *self)
{
    unsigned size = self->env.params->vcpus;
    struct linux_team *team =
        calloc(1, sizeof *team + size * sizeof team->members[0]);

    if (!team)
        return -ENOMEM;
    self->team = team;
    team->env = &self->env;
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->work, NULL);
    pthread_cond_init(&team->done, NULL);
    team->members[0].thread = self->thread;
    for (team->size = 1; team->size < size; team->size++) {
        struct member *member = &team->members[team->size];

        member->team = team;
        member->id = team->size;
        if (pthread_create(&member->thread, NULL, member_main, member))
            return -EAGAIN;
    }
    pin_members(team);
    return 0;
}

static void start_round(struct linux_team *team)
{
    pthread_mutex_lock(&team->lock);
    team->running = team->size - 1;
    team->round++;
    pthread_cond_broadcast(&team->work);
    pthread_mutex_unlock(&team->lock);
}

static void await_round(struct linux_team *team)
{
    pthread_mutex_lock(&team->lock);
    while (team->running)
        pthread_cond_wait(&team->done, &team->lock);
    pthread_mutex_unlock(&team->lock);
}

/* A workload must not fail on member 0 while others wait for it. */
int linux_parallel(const struct wl_env *env,
                   void (*fn)(const struct wl_env *env, void *arg, unsigned id),
                   void *arg)
{
    struct wl_linux *self = wl_linux_of(env);

    if (self->pair.is_child)
        return -EBUSY;
    if (!self->team) {
        int error = team_create(self);

        if (error)
            return error;
    }
    if (self->team->size < env->params->vcpus)
        return -EAGAIN;
    self->team->fn = fn;
    self->team->arg = arg;
    start_round(self->team);
    fn(env, arg, 0);
    await_round(self->team);
    if (self->team->failed)
        linux_give_up(self);
    return 0;
}

void linux_team_free(struct linux_team *team)
{
    if (!team)
        return;
    pthread_mutex_lock(&team->lock);
    team->quit = true;
    pthread_cond_broadcast(&team->work);
    pthread_mutex_unlock(&team->lock);
    for (unsigned i = 1; i < team->size; i++)
        pthread_join(team->members[i].thread, NULL);
    if (team->pinned)
        pthread_setaffinity_np(team->members[0].thread, sizeof team->before,
                               &team->before);
    pthread_cond_destroy(&team->done);
    pthread_cond_destroy(&team->work);
    pthread_mutex_destroy(&team->lock);
    free(team);
}
