// SPDX-License-Identifier: MIT
/* many COUNT: so many children that only wait; tells on stdout when all are there, ends them when a byte comes on stdin. */
#include <err.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    int count = argc > 1 ? atoi(argv[1]) : 0;
    char byte = '.';
    signal(SIGTERM, SIG_IGN);
    setpgid(0, 0);
    for (int n = 0; n < count; n++) {
        pid_t child = fork();
        if (child < 0)
            err(99, "fork %d", n);
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            signal(SIGTERM, SIG_DFL);
            for (;;)
                pause();
        }
    }
    if (write(1, &byte, 1) != 1 || read(0, &byte, 1) != 1)
        err(98, "wait");
    kill(0, SIGTERM);
    while (wait(NULL) > 0)
        ;
    return 0;
}
