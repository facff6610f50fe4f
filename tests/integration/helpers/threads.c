// SPDX-License-Identifier: MIT
/*
 * threads MILLISECONDS CODE: threads come and go at full speed for so long, then it ends with this code. It prints how
 * many there were.
 */
#include <err.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void *nothing(void *unused) {
    return unused;
}

int main(int argc, char **argv) {
    if (argc != 3)
        errx(99, "usage: threads MILLISECONDS CODE");
    long count = 0, until_ms = now_ms() + atol(argv[1]);
    while (now_ms() < until_ms) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, nothing, NULL))
            errx(99, "pthread_create");
        pthread_join(thread, NULL);
        count++;
    }
    printf("%ld\n", count);
    return atoi(argv[2]);
}
