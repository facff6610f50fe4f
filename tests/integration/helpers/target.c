// SPDX-License-Identifier: MIT
/*
 * A process for others to kill, that does what its arguments say, one step after the other:
 *
 *   wait            tell on stdout (one byte), go on when a byte comes on stdin
 *   catch N         have this signal handled; default N: not any more
 *   block N         block it; unblock N
 *   take N          wait for it and take it; it must be blocked
 *   alarm N         have it come from an interval timer
 *   timer N         have it come from a POSIX timer
 *   fault N         read what is not there
 *   raise N         send it to this process
 *   comm NAME       take this name
 *   thread N        go on in a thread; the leader blocks signal N, unless that is 0
 *   exit N          end with this code
 *   reuse N         see below
 *
 * reuse: two children have one PID, one after the other. The first blocks SIGTERM, tells its PID, waits for a byte, and
 * ends by itself. The second tells it again, and after another byte a timer's SIGTERM ends it.
 * reuse-sender PID: two have one PID, here too. The first sends SIGTERM to that process. The second, whose name is
 * another, tells its own PID, and waits for a byte.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <linux/sched.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void check(int result, const char *step) {
    if (result < 0)
        err(99, "%s", step);
}

static void wait_for_go(void) {
    char byte = '.';
    check((int)write(1, &byte, 1), "wait");
    if (read(0, &byte, 1) != 1)
        _exit(98);
}

static void tell(pid_t pid) {
    char text[16];
    int length = snprintf(text, sizeof text, "%d\n", (int)pid);
    check((int)write(1, text, (size_t)length), "tell");
}

static void nothing(int number) {
    (void)number;
}

static void mask(int how, int number) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    check(pthread_sigmask(how, &set, NULL), "mask");
}

static void take(int number) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    check(sigwaitinfo(&set, NULL), "take");
}

static void start_timer(int number) {
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = number};
    struct itimerspec at = {.it_value.tv_nsec = 1000000};
    timer_t timer;
    check(timer_create(CLOCK_MONOTONIC, &event, &timer), "timer");
    check(timer_settime(timer, 0, &at, NULL), "timer");
    pause();
}

static void start_alarm(void) {
    struct itimerval at = {.it_value.tv_usec = 1000};
    check(setitimer(ITIMER_REAL, &at, NULL), "alarm");
    pause();
}

/* With this PID, or where it is 0 with any; waits until nobody has it. */
static pid_t fork_with(pid_t pid) {
    struct clone_args args;
    memset(&args, 0, sizeof args);
    args.exit_signal = SIGCHLD;
    args.set_tid = pid ? (uintptr_t)&pid : 0;
    args.set_tid_size = pid != 0;
    for (int n = 0; n < 10000; n++) {
        pid_t child = (pid_t)syscall(SYS_clone3, &args, sizeof args);
        if (child >= 0)
            return child;
        if (errno != EEXIST)
            break;
        usleep(100);
    }
    err(99, "clone3");
}

static void end_of(pid_t child) {
    check(waitpid(child, NULL, 0), "waitpid");
}

static void reuse(void) {
    char byte;
    pid_t child = fork_with(0);
    if (child == 0) {
        mask(SIG_BLOCK, SIGTERM);
        tell(getpid());
        _exit(read(0, &byte, 1) == 1 ? 3 : 98);
    }
    end_of(child);
    if (fork_with(child) == 0) {
        tell(getpid());
        if (read(0, &byte, 1) == 1)
            start_timer(SIGTERM);
        _exit(98);
    }
    end_of(child);
}

static void reuse_sender(pid_t target) {
    char byte;
    pid_t child = fork_with(0);
    if (child == 0) {
        prctl(PR_SET_NAME, "sender");
        check(kill(target, SIGTERM), "kill");
        _exit(0);
    }
    end_of(child);
    if (fork_with(child) == 0) {
        prctl(PR_SET_NAME, "innocent");
        tell(getpid());
        _exit(read(0, &byte, 1) == 1 ? 0 : 98);
    }
    end_of(child);
}

static void *run(void *steps);

static void go_on_in_thread(char **rest, int blocked) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, rest))
        errx(99, "pthread_create");
    if (blocked)
        mask(SIG_BLOCK, blocked);
    pthread_join(thread, NULL);
}

static void do_step(const char *step, const char *argument, char **rest) {
    int number = atoi(argument);
    if (strcmp(step, "catch") == 0)
        signal(number, nothing);
    else if (strcmp(step, "default") == 0)
        signal(number, SIG_DFL);
    else if (strcmp(step, "block") == 0)
        mask(SIG_BLOCK, number);
    else if (strcmp(step, "unblock") == 0)
        mask(SIG_UNBLOCK, number);
    else if (strcmp(step, "take") == 0)
        take(number);
    else if (strcmp(step, "alarm") == 0)
        start_alarm();
    else if (strcmp(step, "timer") == 0)
        start_timer(number);
    else if (strcmp(step, "fault") == 0)
        *(volatile int *)(uintptr_t)number = 0;
    else if (strcmp(step, "raise") == 0)
        check(kill(getpid(), number), step);
    else if (strcmp(step, "comm") == 0)
        check(prctl(PR_SET_NAME, argument), step);
    else if (strcmp(step, "thread") == 0)
        go_on_in_thread(rest, number);
    else if (strcmp(step, "exit") == 0)
        _exit(number);
    else if (strcmp(step, "reuse") == 0)
        reuse();
    else if (strcmp(step, "reuse-sender") == 0)
        reuse_sender(number);
    else
        errx(99, "unknown step %s", step);
}

static void *run(void *steps) {
    for (char **step = steps; *step; step += 2) {
        while (*step && strcmp(*step, "wait") == 0) {
            wait_for_go();
            step++;
        }
        if (!*step)
            break;
        if (!step[1])
            errx(99, "%s: an argument is missing", step[0]);
        do_step(step[0], step[1], step + 2);
    }
    exit(0);
}

int main(int argc, char **argv) {
    (void)argc;
    run(argv + 1);
    return 0;
}
