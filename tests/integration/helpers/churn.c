// SPDX-License-Identifier: MIT
/*
 * churn: processes come and go at full speed, until a byte comes on stdin. It tells on stdout (one byte) when it is in
 * full swing. At the end it prints a line for each process that it forked, as it saw them itself:
 *
 *   NUMBER PID START-TICKS FORKED-NS UNTIL-NS
 *
 * FORKED-NS is CLOCK_MONOTONIC before the fork. UNTIL-NS is when the process ended at the earliest: 0 where that was at
 * once, -1 where it was at the end of all. Each ends with NUMBER % 200 + 1. Each third one, and each second of those
 * that stay to the end, becomes `churn stay NUMBER UNTIL-NS`.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { STAYING = 20, AT_ONCE = 24, LIMIT = 200000, FULL_SWING = 300, LONGEST_USEC = 20000 };

struct process {
    pid_t pid;
    unsigned long long start_ticks;
    int64_t forked_ns, until_ns;
};

static struct process *processes;
static int count, living, end_of_all[2];

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void stay(int number, int64_t until_ns) {
    struct timespec until = {until_ns / 1000000000, until_ns % 1000000000};
    char byte;
    if (until_ns > 0)
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    else if (until_ns < 0 && read(end_of_all[0], &byte, 1) < 0)
        _exit(202);
    _exit(number % 200 + 1);
}

static void start(char *program, int64_t until_ns) {
    int number = count++;
    struct process *process = &processes[number];
    process->forked_ns = now_ns();
    process->until_ns = until_ns;
    process->pid = fork();
    if (process->pid < 0)
        err(99, "fork");
    living++;
    if (process->pid)
        return;
    close(end_of_all[1]);
    if (until_ns < 0 ? number % 2 : number % 3 == 0) {
        char texts[3][24];
        char *arguments[] = {program, "stay", texts[0], texts[1], texts[2], NULL};
        snprintf(texts[0], sizeof texts[0], "%d", number);
        snprintf(texts[1], sizeof texts[1], "%lld", (long long)until_ns);
        snprintf(texts[2], sizeof texts[2], "%d", end_of_all[0]);
        execv(program, arguments);
        _exit(201);
    }
    stay(number, until_ns);
}

/* Field 22 of its stat, also of a zombie. */
static unsigned long long start_ticks_of(pid_t pid) {
    char path[32], text[1024];
    unsigned long long ticks = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int file = open(path, O_RDONLY);
    ssize_t length = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (length < 0)
        err(99, "%s", path);
    close(file);
    text[length] = 0;
    char *field = strrchr(text, ')');
    for (int n = 2; field && n < 22; n++)
        field = strchr(field + 1, ' ');
    if (!field || sscanf(field, "%llu", &ticks) != 1)
        errx(99, "%s: %s", path, text);
    return ticks;
}

static void reap_one(void) {
    siginfo_t info;
    int number = count - 1;
    if (waitid(P_ALL, 0, &info, WEXITED | WNOWAIT) < 0)
        err(99, "waitid");
    unsigned long long start_ticks = start_ticks_of(info.si_pid);
    if (waitpid(info.si_pid, NULL, 0) < 0)
        err(99, "waitpid");
    while (processes[number].pid != info.si_pid)
        number--;
    processes[number].start_ticks = start_ticks;
    living--;
}

static int is_over(void) {
    struct pollfd input = {0, POLLIN, 0};
    return poll(&input, 1, 0) > 0 || count == LIMIT;
}

int main(int argc, char **argv) {
    if (argc == 5) {
        end_of_all[0] = atoi(argv[4]);
        stay(atoi(argv[2]), atoll(argv[3]));
    }
    processes = calloc(LIMIT, sizeof *processes);
    if (!processes || pipe(end_of_all) < 0)
        err(99, "%s with %d arguments", argv[0], argc);
    while (count < STAYING)
        start(argv[0], -1);
    while (!is_over()) {
        start(argv[0], count % 2 ? 0 : now_ns() + rand() % LONGEST_USEC * 1000LL);
        if (living >= STAYING + AT_ONCE)
            reap_one();
        if (count == FULL_SWING && write(1, ".", 1) != 1)
            err(99, "stdout");
    }
    close(end_of_all[1]);
    while (living)
        reap_one();
    for (struct process *one = processes; one < processes + count; one++)
        printf("%d %d %llu %lld %lld\n", (int)(one - processes), (int)one->pid, one->start_ticks,
               (long long)one->forked_ns, (long long)one->until_ns);
    return 0;
}
