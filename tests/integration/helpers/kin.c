// SPDX-License-Identifier: MIT
/*
 * kin KIND [wait]: a child that is born in a way where its parent could be told wrong. When all have ended it prints
 * `MIDDLE CHILD ADOPTER`, the PIDs of those that there are (else 0). With `wait` it tells on stdout (one byte) when its
 * child is born, and goes on when a byte comes on stdin.
 *
 *   from-thread         a thread forks the child
 *   clone-parent        the middle one makes the child with CLONE_PARENT
 *   clone-parent-from-thread   so does a thread of the middle one
 *   subreaper           the middle one forks the child and ends; this process adopts it
 *   init                the same, but someone above this process adopts it
 *
 * The middle one has the name `middle` when the child is born, and then `later`; it ends with 22. The child, once
 * adopted if it is to be, takes the name `child`, becomes `kin end` and ends with 21.
 */
#define _GNU_SOURCE
#include <err.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHILD_CODE = 21, MIDDLE_CODE = 22 };

static struct {
    volatile pid_t middle, child, adopter;
} *known;
static char *program;
static int is_orphaned, has_to_wait;

static pid_t check(long result, const char *what) {
    if (result < 0)
        err(99, "%s", what);
    return (pid_t)result;
}

static void be_child(void) {
    char *arguments[] = {program, "end", NULL};
    while (is_orphaned && getppid() == known->middle)
        usleep(100);
    known->adopter = is_orphaned ? getppid() : 0;
    check(prctl(PR_SET_NAME, "child"), "name");
    execv(program, arguments);
    _exit(98);
}

static void wait_for_go(void) {
    char byte = '.';
    if (has_to_wait && (write(1, &byte, 1) != 1 || read(0, &byte, 1) != 1))
        _exit(97);
}

static void *make_child(void *flags) {
    pid_t child = check(syscall(SYS_clone, (long)flags | SIGCHLD, NULL, NULL, NULL, NULL), "clone");
    if (child == 0)
        be_child();
    known->child = child;
    return NULL;
}

static void make_child_in_thread(long flags) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, make_child, (void *)flags) || pthread_join(thread, NULL))
        errx(99, "thread");
}

static void make_middle(int in_thread, long flags) {
    pid_t middle = check(fork(), "fork");
    if (middle) {
        known->middle = middle;
        return;
    }
    known->middle = getpid();
    check(prctl(PR_SET_NAME, "middle"), "name");
    if (in_thread)
        make_child_in_thread(flags);
    else
        make_child((void *)flags);
    wait_for_go();
    check(prctl(PR_SET_NAME, "later"), "name");
    _exit(MIDDLE_CODE);
}

static int is(const char *kind, const char *name) {
    return strcmp(kind, name) == 0;
}

int main(int argc, char **argv) {
    if (argc < 2)
        errx(99, "which kind?");
    program = argv[0];
    const char *kind = argv[1];
    if (is(kind, "end"))
        return CHILD_CODE;
    has_to_wait = argc > 2;
    is_orphaned = is(kind, "subreaper") || is(kind, "init");
    known = mmap(NULL, sizeof *known, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int until_end[2];
    if (known == MAP_FAILED || pipe(until_end) < 0)
        err(99, "mmap, pipe");
    if (is(kind, "subreaper"))
        check(prctl(PR_SET_CHILD_SUBREAPER, 1), "subreaper");
    if (is(kind, "from-thread"))
        make_child_in_thread(0);
    else
        make_middle(is(kind, "clone-parent-from-thread"), is_orphaned ? 0 : CLONE_PARENT);
    /* Who holds the other end has not ended. */
    char byte;
    close(until_end[1]);
    if (read(until_end[0], &byte, 1) != 0)
        errx(99, "pipe");
    while (wait(NULL) > 0)
        ;
    printf("%d %d %d\n", (int)known->middle, (int)known->child, (int)known->adopter);
    return 0;
}
