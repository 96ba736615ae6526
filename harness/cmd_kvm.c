/* memvirt kvm: the host's switch between nested and shadow paging. */
#include "ept/kvm_switch.h"
#include "harness/commands.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char help[] =
    "Usage: memvirt kvm\n"
    "       memvirt kvm nested|shadow [-- COMMAND...]\n"
    "       memvirt kvm restore\n"
    "\n"
    "Shows how this host's KVM virtualizes memory, or turns it, as root, by\n"
    "reloading the KVM module with ept= (Intel) or npt= (AMD) and everything\n"
    "else as it was. Refused while a VM runs.\n"
    "\n"
    "With a command, runs it and puts back what was found, whatever happens.\n"
    "Without, stays until `memvirt kvm restore` or the next boot.\n"
    "\n"
    "Examples:\n"
    "  memvirt kvm\n"
    "  sudo memvirt kvm shadow -- memvirt run -t shadow -w gups\n"
    "  sudo memvirt kvm nested && memvirt run -t nested; "
    "sudo memvirt kvm restore\n";

static int fail(const struct why *why)
{
    fprintf(stderr, "memvirt kvm: %s\n", why->text);
    return 1;
}

static int usage(const char *what)
{
    fprintf(stderr,
            "memvirt kvm: '%s' is not understood: nested, shadow or restore "
            "(memvirt kvm --help)\n",
            what);
    return 2;
}

static int show(void)
{
    struct kvm_state s;
    const char *parameter;

    kvm_state_read(&kvm_host_linux, &s);
    parameter = kvm_flavour_switch(s.flavour);
    printf("module   %s\n", s.flavour ? kvm_flavour_name(s.flavour) : "none");
    printf("paging   %s", kvm_paging_name(s.paging));
    if (*parameter && s.paging)
        printf(" (%s=%d)", parameter, s.paging == KVM_PAGING_NESTED);
    printf("\nusable   %s\n", s.answers ? "yes, /dev/kvm makes VMs"
                                        : "no, /dev/kvm does not make a VM");
    if (s.users >= 0)
        printf("users    %d\n", s.users);
    printf("switch   %s\n", s.switchable ? "possible, as root" : s.obstacle);
    if (s.kept)
        printf("note     turned by memvirt; `memvirt kvm restore` puts it "
               "back\n");
    return 0;
}

static int restore(void)
{
    struct why why;
    int result = kvm_switch_restore(&kvm_host_linux, &why);

    if (result < 0)
        return fail(&why);
    puts(result ? "nothing to put back" : "put back as found");
    return 0;
}

/* The command's exit status, 128 + its signal, or 127 when it does not
 * start. Terminal signals are the command's to act on; we put back. */
static int run_command(char **command)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN}, was_int, was_quit;
    pid_t child;
    int status = 0;

    sigaction(SIGINT, &ignore, &was_int);
    sigaction(SIGQUIT, &ignore, &was_quit);
    child = fork();
    if (!child) {
        sigaction(SIGINT, &was_int, NULL);
        sigaction(SIGQUIT, &was_quit, NULL);
        execvp(command[0], command);
        fprintf(stderr, "memvirt kvm: %s: %s\n", command[0], strerror(errno));
        _exit(127);
    }
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    sigaction(SIGINT, &was_int, NULL);
    sigaction(SIGQUIT, &was_quit, NULL);
    if (child < 0)
        return 127;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int turn(enum kvm_paging paging, char **command)
{
    struct kvm_switch *sw;
    struct why why;
    int status;

    if (kvm_switch_open(&kvm_host_linux, &sw, &why))
        return fail(&why);
    if (kvm_switch_set(sw, paging, &why)) {
        kvm_switch_close(sw, NULL);
        return fail(&why);
    }
    if (!command)
        return kvm_switch_keep(sw, &why) ? fail(&why) : show();
    status = run_command(command);
    if (kvm_switch_close(sw, &why))
        return fail(&why);
    return status;
}

int cmd_kvm(int argc, char **argv)
{
    static const struct option options[] = {{"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    char **command = NULL;
    int option;

    optind = 0;
    option = getopt_long(argc, argv, "+h", options, NULL);
    if (option == 'h') {
        fputs(help, stdout);
        return 0;
    }
    if (option != -1)
        return 2;
    if (optind == argc)
        return show();
    argv += optind;
    if (argv[1] && (strcmp(argv[1], "--") || !argv[2]))
        return usage(argv[1]);
    if (argv[1])
        command = argv + 2;
    if (!strcmp(argv[0], "restore") && !command)
        return restore();
    if (!strcmp(argv[0], "nested"))
        return turn(KVM_PAGING_NESTED, command);
    if (!strcmp(argv[0], "shadow"))
        return turn(KVM_PAGING_SHADOW, command);
    return usage(argv[0]);
}
