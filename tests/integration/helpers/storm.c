// SPDX-License-Identifier: MIT
/* storm MILLISECONDS: children by vfork that end at once, as many as there can be; prints how many. */
#define _GNU_SOURCE
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

int main(int argc, char **argv) {
    long long end = now_ms() + (argc > 1 ? atoll(argv[1]) : 1000);
    long count = 0;
    while (now_ms() < end) {
        pid_t child = vfork();
        if (child == 0)
            _exit(0);
        if (child < 0 || waitpid(child, NULL, 0) < 0)
            err(99, "vfork");
        count++;
    }
    printf("%ld\n", count);
    return 0;
}
