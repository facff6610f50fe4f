// SPDX-License-Identifier: MIT
/*
 * reuse ROUNDS: so many short lives one after the other that all have one and the same PID, which it prints.
 * Each becomes `reuse life N` by exec; each second one ends at once, the others after a moment.
 */
#define _GNU_SOURCE
#include <err.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* A PID that nobody has: that of a child that came and went. */
static pid_t free_pid(void) {
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    if (child < 0 || waitpid(child, NULL, 0) < 0)
        err(99, "fork");
    return child;
}

static pid_t fork_as(pid_t pid) {
    struct clone_args args;
    memset(&args, 0, sizeof args);
    args.exit_signal = SIGCHLD;
    args.set_tid = (uintptr_t)&pid;
    args.set_tid_size = 1;
    return (pid_t)syscall(SYS_clone3, &args, sizeof args);
}

static void live(char *program, pid_t pid, int number) {
    char text[16];
    pid_t child = fork_as(pid);
    if (child == 0) {
        char *arguments[] = {program, "life", text, NULL};
        snprintf(text, sizeof text, "%d", number);
        execv("/proc/self/exe", arguments);
        _exit(99);
    }
    if (child < 0 || waitpid(child, NULL, 0) < 0)
        err(99, "clone3 %d", (int)pid);
}

int main(int argc, char **argv) {
    if (argc == 3) {
        if (atoi(argv[2]) % 2)
            usleep(300);
        return 0;
    }
    pid_t pid = free_pid();
    int rounds = argc > 1 ? atoi(argv[1]) : 100;
    for (int number = 0; number < rounds; number++)
        live(argv[0], pid, number);
    printf("%d\n", (int)pid);
    return 0;
}
