// SPDX-License-Identifier: MIT
/*
 * bomb MILLISECONDS: a tree of processes, as many as there can be; where no more can be it falls down, and grows anew,
 * until the time is over. Prints how many there were. Only for a control group with a limit.
 */
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHILDREN 8

static long long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void explode(long long end, long *forks) {
    for (int n = 0; n < CHILDREN && now_ms() < end; n++) {
        pid_t child = fork();
        if (child == 0) {
            explode(end, forks);
            _exit(0);
        }
        if (child < 0)
            break;
        __atomic_add_fetch(forks, 1, __ATOMIC_RELAXED);
    }
    while (wait(NULL) > 0)
        ;
}

int main(int argc, char **argv) {
    long *forks = mmap(NULL, sizeof *forks, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    long long end = now_ms() + (argc > 1 ? atoll(argv[1]) : 1000);
    if (forks == MAP_FAILED)
        err(99, "mmap");
    while (now_ms() < end)
        explode(end, forks);
    printf("%ld\n", *forks);
    return 0;
}
