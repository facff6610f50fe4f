// SPDX-License-Identifier: MIT
/*
 * A process that does what its arguments say, one step after the other:
 *
 *   wait               tell on stdout (one byte), go on when a byte comes on stdin
 *   exit N             end with this code
 *   signal N           end by this signal
 *   note TEXT          nothing: TEXT is for whoever looks at the arguments
 *   comm NAME          take this name
 *   uid N, gid N       change all ids to N; euid N: the effective one alone
 *   setsid             lead a session; ctty: with stdin as its terminal
 *   loginuid N         have this audit login id
 *   chdir PATH
 *   core               allow core dumps; no-core: forbid them
 *   fork               a child comes and ends, and is reaped
 *   child              a child goes on with the steps, its parent waits for it and ends as it did
 *   orphan             a child goes on with the steps, its parent ends with 0 at once
 *   thread             a thread comes and ends
 *   threads            some threads come and end, and nobody waits for them
 *   in-thread          a thread goes on with the steps, the leader sleeps
 *   leader-ends        a thread goes on with the steps, the leader ends
 *   trace              attach to a child, detach from it, end it
 *   leader-exits N     the same, the leader ends with the code N, alone
 *   ignore-children    let the kernel reap them
 *   renames N          take a new name N times
 *   burn N             use N ms of CPU
 *   touch N            use N MiB of memory
 *   write N            write N MiB to the file `written`
 *   exec PROGRAM ARG…  become another program
 *   exec-bare PROGRAM  the same, without any argument, not even a name
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void check(int result, const char *step) {
    if (result < 0)
        err(99, "%s", step);
}

static void wait_for_go(void) {
    char byte = '.';
    check(write(1, &byte, 1), "wait");
    if (read(0, &byte, 1) != 1)
        _exit(98);
}

static void limit_core(rlim_t size) {
    struct rlimit limit = {size, size};
    check(setrlimit(RLIMIT_CORE, &limit), "core");
}

static void set_loginuid(const char *uid) {
    int fd = open("/proc/self/loginuid", O_WRONLY);
    check(fd, "loginuid");
    check(write(fd, uid, strlen(uid)), "loginuid");
    close(fd);
}

static void rename_often(int times) {
    char name[16];
    for (int n = 0; n < times; n++) {
        snprintf(name, sizeof name, "%d", n);
        check(prctl(PR_SET_NAME, name), "renames");
    }
}

static void burn(long milliseconds) {
    clock_t until = clock() + milliseconds * CLOCKS_PER_SEC / 1000;
    while (clock() < until)
        ;
}

static void touch(size_t mebibytes) {
    char *memory = malloc(mebibytes << 20);
    if (memory == NULL)
        err(99, "touch");
    memset(memory, 1, mebibytes << 20);
    /* Or the compiler leaves it out. */
    __asm__ volatile("" : : "r"(memory) : "memory");
    free(memory);
}

static void write_file(int mebibytes) {
    static char block[1 << 20];
    int fd = open("written", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    check(fd, "written");
    for (int n = 0; n < mebibytes; n++)
        check(write(fd, block, sizeof block), "write");
    close(fd);
}

static void end_by_signal(int number) {
    signal(number, SIG_DFL);
    raise(number);
    _exit(97);
}

/* Returns in the child. */
static void go_on_in_child(int wait_for_it) {
    int status = 0;
    pid_t child = fork();
    check(child, "fork");
    if (child == 0)
        return;
    if (wait_for_it)
        check(waitpid(child, &status, 0), "waitpid");
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 96);
}

static void fork_and_reap(void) {
    pid_t child = fork();
    check(child, "fork");
    if (child == 0)
        _exit(0);
    check(waitpid(child, NULL, 0), "waitpid");
}

static void trace_a_child(void) {
    pid_t child = fork();
    check(child, "fork");
    if (child == 0) {
        pause();
        _exit(95);
    }
    check(ptrace(PTRACE_ATTACH, child, NULL, NULL), "attach");
    check(waitpid(child, NULL, 0), "waitpid");
    check(ptrace(PTRACE_DETACH, child, NULL, NULL), "detach");
    check(kill(child, SIGKILL), "kill");
    check(waitpid(child, NULL, 0), "waitpid");
}

static void *run(void *steps);

static void *nothing(void *unused) {
    return unused;
}

static void start_thread(void *(*work)(void *), char **steps, pthread_t *thread) {
    if (pthread_create(thread, NULL, work, steps))
        errx(99, "pthread_create");
}

static int is(const char *step, const char *name) {
    return strcmp(step, name) == 0;
}

/* Steps without an argument; 0 where it is none of them. */
static int do_plain(const char *step, char **rest) {
    pthread_t thread;
    if (is(step, "wait"))
        wait_for_go();
    else if (is(step, "setsid"))
        check(setsid(), step);
    else if (is(step, "ctty"))
        check(ioctl(0, TIOCSCTTY, 0), step);
    else if (is(step, "core"))
        limit_core(RLIM_INFINITY);
    else if (is(step, "no-core"))
        limit_core(0);
    else if (is(step, "fork"))
        fork_and_reap();
    else if (is(step, "child"))
        go_on_in_child(1);
    else if (is(step, "orphan"))
        go_on_in_child(0);
    else if (is(step, "ignore-children"))
        signal(SIGCHLD, SIG_IGN);
    else if (is(step, "trace"))
        trace_a_child();
    else if (is(step, "thread")) {
        start_thread(nothing, NULL, &thread);
        pthread_join(thread, NULL);
    } else if (is(step, "threads")) {
        for (int n = 0; n < 8; n++)
            start_thread(nothing, NULL, &thread);
    } else if (is(step, "in-thread")) {
        start_thread(run, rest, &thread);
        pthread_join(thread, NULL);
    } else if (is(step, "leader-ends")) {
        start_thread(run, rest, &thread);
        pthread_exit(NULL);
    } else
        return 0;
    return 1;
}

/* Steps with an argument. */
static void do_with(const char *step, char *argument, char **arguments) {
    static char *none[] = {NULL};
    pthread_t thread;
    int number = atoi(argument);
    if (is(step, "exit"))
        _exit(number);
    else if (is(step, "leader-exits")) {
        start_thread(run, arguments + 1, &thread);
        syscall(SYS_exit, number);
    } else if (is(step, "renames"))
        rename_often(number);
    else if (is(step, "burn"))
        burn(number);
    else if (is(step, "touch"))
        touch(number);
    else if (is(step, "write"))
        write_file(number);
    else if (is(step, "signal"))
        end_by_signal(number);
    else if (is(step, "comm"))
        check(prctl(PR_SET_NAME, argument), step);
    else if (is(step, "uid"))
        check(setresuid(number, number, number), step);
    else if (is(step, "euid"))
        check(seteuid(number), step);
    else if (is(step, "gid"))
        check(setresgid(number, number, number), step);
    else if (is(step, "loginuid"))
        set_loginuid(argument);
    else if (is(step, "chdir"))
        check(chdir(argument), step);
    else if (is(step, "exec"))
        check(execv(argument, arguments), step);
    else if (is(step, "exec-bare"))
        check(execv(argument, none), step);
    else if (!is(step, "note"))
        errx(99, "unknown step %s", step);
}

static void *run(void *steps) {
    char **step = steps;
    while (*step) {
        if (do_plain(step[0], step + 1)) {
            step += 1;
            continue;
        }
        if (!step[1])
            errx(99, "%s: an argument is missing", step[0]);
        do_with(step[0], step[1], step + 1);
        step += 2;
    }
    exit(0);
}

int main(int argc, char **argv) {
    /* A program started without arguments has nobody to tell it more. */
    if (argc < 2)
        wait_for_go();
    else
        run(argv + 1);
    return 0;
}
