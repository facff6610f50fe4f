// SPDX-License-Identifier: MIT
/*
 * reuse ROUNDS: so many lives one after the other that have one and the same PID, once a byte came on stdin. It prints
 * `FIRST PID`: the number of the first life that has this PID; once, unless somebody else took the PID and kept it.
 * reuse burn: keeps a CPU busy.
 *
 * Each life ends with N % 200 + 1. What else it does follows from its number N (as test_identity.py has it, too):
 *
 *   N % 4 == 0         becomes `reuse life N`; if N / 8 is odd, then takes a uid and a name
 *   N % 4 == 1         takes a name and a uid, becomes `reuse life N`
 *   N % 4 == 2         takes a name and a uid
 *   N % 4 == 3         nothing
 *   N % 96 == 95       has some children before it ends, which nobody reaps
 *   N / 4 is odd       stays a moment before it ends
 *   N / 32 is odd      its PID was asked for by ns_last_pid, else by clone3(2)
 *
 * A process frees its PID, so that the next one can have it, a moment before the kernel tells of its end. To make that
 * moment longer: the zombies a process leaves are removed within it if whoever inherits them ignores SIGCHLD. That is
 * this program then, which waits on the other CPU; the lives end with another signal, so that it can wait for them.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHILDREN = 48, FIRST_UID = 100000, PATIENCE = 2000, HIGHEST = 30000, FAR = 1000 };

static int last_pid_file;

static int leaves_children(int number) {
    return number % 96 == 95;
}

/* Where there is but one CPU, it is that. */
static void move_to_cpu(pid_t pid, int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(pid, sizeof set, &set);
}

static void take_name(const char *prefix, int number) {
    char name[16];
    snprintf(name, sizeof name, "%s-%d", prefix, number);
    prctl(PR_SET_NAME, name);
}

static void take_uid(int number) {
    uid_t uid = FIRST_UID + number;
    if (setresuid(uid, uid, uid) < 0)
        _exit(201);
}

static void leave_children(void) {
    siginfo_t info;
    for (int n = 0; n < CHILDREN; n++) {
        pid_t child = fork();
        if (child == 0)
            _exit(0);
        if (child < 0 || waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) < 0)
            _exit(202);
    }
}

static void end(int number) {
    if (leaves_children(number))
        leave_children();
    if (number / 4 % 2)
        usleep(300);
    _exit(number % 200 + 1);
}

/* What comes after the exec. */
static void live_on(int number) {
    if (number % 4 == 0 && number / 8 % 2) {
        take_uid(number);
        take_name("post", number);
    }
    end(number);
}

static void live(char *program, int number) {
    signal(SIGCHLD, SIG_DFL);
    if (number % 4 == 1 || number % 4 == 2) {
        take_name("pre", number);
        take_uid(number);
    }
    if (number % 4 < 2) {
        char text[16];
        char *arguments[] = {program, "life", text, NULL};
        snprintf(text, sizeof text, "%d", number);
        execv(program, arguments);
        _exit(203);
    }
    end(number);
}

/* With this PID, or where it is 0 with the one that comes next. */
static pid_t clone_with(pid_t pid, int exit_signal) {
    struct clone_args args;
    memset(&args, 0, sizeof args);
    args.exit_signal = (uint64_t)exit_signal;
    if (pid) {
        args.set_tid = (uintptr_t)&pid;
        args.set_tid_size = 1;
    }
    return (pid_t)syscall(SYS_clone3, &args, sizeof args);
}

static int reap(pid_t child, int spin) {
    int status = 0;
    pid_t found;
    do
        found = waitpid(child, &status, __WALL | (spin ? WNOHANG : 0));
    while (found == 0);
    if (found < 0)
        err(99, "waitpid %d", (int)child);
    return status;
}

/* A PID that nobody has: that of a child that came and went. */
static pid_t free_pid(void) {
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    if (child < 0)
        err(99, "fork");
    reap(child, 0);
    return child;
}

/* The next one that is free after this one is for who is forked next. */
static void set_last_pid(pid_t pid) {
    char text[16];
    int length = snprintf(text, sizeof text, "%d", (int)pid);
    if (pwrite(last_pid_file, text, (size_t)length, 0) != length)
        err(99, "ns_last_pid");
}

static pid_t clone_after_last_pid(pid_t pid, int exit_signal) {
    set_last_pid(pid - 1);
    pid_t child = clone_with(0, exit_signal);
    if (child == 0 && getpid() != pid)
        _exit(0);
    if (child > 0 && child != pid) {
        reap(child, 0);
        errno = EEXIST;
        return -1;
    }
    return child;
}

/* Begins a life with the PID, or where somebody else keeps that with a new one. */
static pid_t begin(pid_t *pid, int number, int exit_signal) {
    for (int attempt = 1;; attempt++) {
        pid_t child = number / 32 % 2 ? clone_after_last_pid(*pid, exit_signal) : clone_with(*pid, exit_signal);
        if (child >= 0)
            return child;
        if (errno != EEXIST)
            err(99, "life %d", number);
        usleep(100);
        if (attempt % PATIENCE == 0) {
            /* Far from those that children of the lives had. */
            set_last_pid(*pid < HIGHEST - FAR ? *pid + FAR : FAR);
            *pid = free_pid();
            printf("%d %d\n", number, (int)*pid);
        }
    }
}

int main(int argc, char **argv) {
    if (argc == 3)
        live_on(atoi(argv[2]));
    int rounds = argc > 1 ? atoi(argv[1]) : 100;
    while (argc > 1 && strcmp(argv[1], "burn") == 0)
        ;
    /* What it prints must not be printed by its children. */
    setvbuf(stdout, NULL, _IONBF, 0);
    last_pid_file = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
    if (last_pid_file < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
        err(99, "ns_last_pid, subreaper");
    move_to_cpu(0, 0);
    char byte;
    if (read(0, &byte, 1) < 0)
        err(99, "stdin");
    pid_t pid = free_pid();
    printf("0 %d\n", (int)pid);
    for (int number = 0; number < rounds; number++) {
        int many = leaves_children(number);
        signal(SIGCHLD, many ? SIG_IGN : SIG_DFL);
        pid_t child = begin(&pid, number, many ? SIGURG : SIGCHLD);
        if (child == 0)
            live(argv[0], number);
        /* By itself it could not move before this one waits. */
        move_to_cpu(child, 1);
        int status = reap(child, number / 4 % 2 == 0 || many);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != number % 200 + 1)
            errx(99, "life %d ended with status %#x", number, (unsigned)status);
    }
    return 0;
}
