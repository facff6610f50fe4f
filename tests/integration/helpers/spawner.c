// SPDX-License-Identifier: MIT
/*
 * spawner COUNT PROGRAM...: starts each of these programs so often, in turns, one after the other, each with arguments
 * of its own: `PROGRAM number N`. It waits for a byte on stdin first, and ends with 0 if all of them could be started.
 *
 * burn: uses a CPU until it is killed.
 */
#include <err.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    char byte, text[16];
    while (argc > 1 && strcmp(argv[1], "burn") == 0)
        ;
    if (argc < 3 || read(0, &byte, 1) != 1)
        return 99;
    for (int n = 0; n < atoi(argv[1]); n++)
        for (int program = 2; program < argc; program++) {
            char *arguments[] = {argv[program], "number", text, NULL}, *none[] = {NULL};
            pid_t child;
            snprintf(text, sizeof text, "%d", n);
            if (posix_spawn(&child, argv[program], NULL, NULL, arguments, none))
                errx(98, "%s", argv[program]);
            if (waitpid(child, NULL, 0) != child)
                err(97, "waitpid");
        }
    return 0;
}
