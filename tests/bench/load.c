/* SPDX-License-Identifier: MIT */
/*
 * The load that the benchmarks put on a machine, and the truth about it.
 *
 *   load storm SECONDS               vfork children that end at once; prints how many
 *   load spawn COUNT PROGRAM [ARG…]  run a program so many times, one after the other; prints their PIDs
 */
#define _GNU_SOURCE
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec * 1e-9;
}

static int storm(double seconds)
{
	double until = now() + seconds;
	long forks = 0;

	/* The clock is looked at now and then only: it is the forks that shall take the time. */
	while (forks % 64 || now() < until) {
		pid_t child = vfork();

		if (child == 0)
			_exit(0);
		if (child < 0) {
			perror("vfork");
			return 1;
		}
		forks++;
		waitpid(child, NULL, 0);
	}
	printf("%ld\n", forks);
	return 0;
}

static int spawn(long count, char **arguments)
{
	for (long n = 0; n < count; n++) {
		pid_t child;
		int error = posix_spawn(&child, arguments[0], NULL, NULL, arguments, environ);

		if (error) {
			fprintf(stderr, "%s: %s\n", arguments[0], strerror(error));
			return 1;
		}
		waitpid(child, NULL, 0);
		printf("%d\n", child);
	}
	return 0;
}

int main(int count, char **arguments)
{
	if (count == 3 && !strcmp(arguments[1], "storm"))
		return storm(atof(arguments[2]));
	if (count >= 4 && !strcmp(arguments[1], "spawn"))
		return spawn(atol(arguments[2]), arguments + 3);
	fprintf(stderr, "usage: load storm SECONDS | load spawn COUNT PROGRAM [ARG...]\n");
	return 2;
}
