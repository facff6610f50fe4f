// SPDX-License-Identifier: MIT
/*
 * held: a child becomes `held first`, then `held second`, then ends with 3; this process traces it. It tells on stdout
 * (one byte) before the first exec and within the second, when the child is the new program already and the kernel has
 * not told of it yet, and goes on when a byte comes on stdin.
 *
 * The kernel stops a traced process within its exec before it sends EXEC [fs/exec.c, exec_binprm()].
 */
#define _GNU_SOURCE
#include <err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static void wait_for_go(void) {
    char byte = '.';
    if (write(1, &byte, 1) != 1 || read(0, &byte, 1) != 1)
        _exit(98);
}

static void become(char *program, char *name) {
    char *arguments[] = {program, name, NULL};
    execv(program, arguments);
    _exit(97);
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "first") == 0)
        become(argv[0], "second");
    if (argc == 2)
        return 3;
    int go[2], status, execs = 0;
    if (pipe(go) < 0)
        err(99, "pipe");
    pid_t child = fork();
    if (child == 0) {
        char byte;
        if (read(go[0], &byte, 1) != 1)
            _exit(96);
        become(argv[0], "first");
    }
    if (child < 0 || ptrace(PTRACE_SEIZE, child, NULL, (void *)(PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL)) < 0)
        err(99, "child");
    wait_for_go();
    if (write(go[1], "", 1) != 1)
        err(99, "pipe");
    while (waitpid(child, &status, 0) == child && !WIFEXITED(status)) {
        if (status >> 8 == (SIGTRAP | PTRACE_EVENT_EXEC << 8) && ++execs == 2)
            wait_for_go();
        if (ptrace(PTRACE_CONT, child, NULL, NULL) < 0)
            err(99, "continue");
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 95;
}
