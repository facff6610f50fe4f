/* SPDX-License-Identifier: MIT */
/*
 * The load that the benchmarks put on a machine, and the truth about it.
 *
 *   load vfork SECONDS COUNT              vfork children that end at once; prints how many
 *   load thread SECONDS COUNT             the same with threads
 *   load spawn COUNT RATE PROGRAM [ARG…]  run a program so many times, one after the other, so often a second, with the
 *                                         number of the time as its last argument; prints each PID and when it was
 *                                         started, in ns of CLOCK_MONOTONIC
 *   load live COUNT                       so many children that do nothing, until standard input ends; prints how many
 *   load spin                             use a CPU until it is killed
 *
 * SECONDS, COUNT: what comes first is the end; 0 is no such end. RATE: 0 is as fast as can be.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000LL

extern char **environ;

static long long now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * SECOND_NS + time.tv_nsec;
}

static void sleep_until(long long ns)
{
	struct timespec time = { ns / SECOND_NS, ns % SECOND_NS };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL))
		;
}

static int make_child(void)
{
	pid_t child = vfork();

	if (child == 0)
		_exit(0);
	return child < 0 || waitpid(child, NULL, 0) < 0;
}

static void *end_at_once(void *nothing)
{
	return nothing;
}

static int make_thread(void)
{
	pthread_t thread;

	return pthread_create(&thread, NULL, end_at_once, NULL) || pthread_join(thread, NULL);
}

static int storm(int (*make)(void), double seconds, long count)
{
	long long until = seconds ? now_ns() + (long long)(seconds * SECOND_NS) : LLONG_MAX;
	long made = 0;

	/* The clock is looked at now and then only: it is what is made that shall take the time. */
	while ((!count || made < count) && (made % 64 || now_ns() < until)) {
		if (make()) {
			perror("storm");
			return 1;
		}
		made++;
	}
	printf("%ld\n", made);
	return 0;
}

/* The arguments end with room for the number: a NULL and the NULL after it. */
static int spawn(long count, double rate, char **arguments, char **last)
{
	long long start = now_ns();
	static char number[24];

	*last = number;
	for (long n = 0; n < count; n++) {
		pid_t child;
		long long at;
		int error;

		snprintf(number, sizeof(number), "%ld", n);
		if (rate)
			sleep_until(start + (long long)(n / rate * SECOND_NS));
		at = now_ns();
		error = posix_spawn(&child, arguments[0], NULL, NULL, arguments, environ);
		if (error) {
			fprintf(stderr, "%s: %s\n", arguments[0], strerror(error));
			return 1;
		}
		waitpid(child, NULL, 0);
		printf("%d %lld\n", child, at);
	}
	return 0;
}

/* They die with their parent. */
static int live(long count)
{
	pid_t self = getpid();
	long made = 0;
	char nothing;

	while (made < count) {
		pid_t child = fork();

		if (child == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			while (getppid() == self)
				pause();
			_exit(0);
		}
		if (child < 0) {
			perror("fork");
			break;
		}
		made++;
	}
	printf("%ld\n", made);
	fflush(stdout);
	while (read(STDIN_FILENO, &nothing, 1) > 0)
		;
	return 0;
}

static void spin(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;)
		__asm__ volatile("");
}

static int usage(void)
{
	fprintf(stderr, "usage: load vfork|thread SECONDS COUNT | spawn COUNT RATE PROGRAM [ARG...] | live COUNT | spin\n");
	return 2;
}

int main(int count, char **arguments)
{
	const char *what = count > 1 ? arguments[1] : "";

	if (count == 4 && !strcmp(what, "vfork"))
		return storm(make_child, atof(arguments[2]), atol(arguments[3]));
	if (count == 4 && !strcmp(what, "thread"))
		return storm(make_thread, atof(arguments[2]), atol(arguments[3]));
	if (count == 3 && !strcmp(what, "live"))
		return live(atol(arguments[2]));
	if (count == 2 && !strcmp(what, "spin"))
		spin();
	if (count < 5 || strcmp(what, "spawn"))
		return usage();

	char *program[count - 2];

	memcpy(program, arguments + 4, (count - 4) * sizeof(*program));
	program[count - 3] = NULL;
	return spawn(atol(arguments[2]), atof(arguments[3]), program, program + count - 4);
}
