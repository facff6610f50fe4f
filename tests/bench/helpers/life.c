/* SPDX-License-Identifier: MIT */
/*
 * Lives of which the truth is known: each ends as its arguments say, and prints who else took part, as `NAME ID`.
 *
 *   exit CODE [ARG…]     ends with this code
 *   await CODE           the same, once its standard input has ended
 *   sleep SECONDS        ends well after that
 *   signal NUMBER        is ended by it, with a core dump where there may be one
 *   threads CODE         exit_group() by the leader while threads run; tid: each of them
 *   leader-first CODE    the leader ends, and then the thread by exit_group(); tid: that thread
 *   exec-thread CODE     a thread becomes `exit CODE`; tid: that thread
 *   auto-reaped CODE     pid: a child `exit CODE` that nobody waits for
 *   forked CODE          pid: a child that goes on with this program and ends with the code
 *   reuse COUNT          pid: that of children `exit 1` to `exit COUNT`, one at once after the other
 *   thread-child         a thread has a child; tid: the thread, pid: the child
 *   clone-parent         makes a sibling of itself; pid: the sibling
 *   nest ARG…            waits for a child `ARG…`, and whoever else becomes a child
 *   adopt CODE           becomes the parent of an orphan `late CODE`; pid: the orphan, parent: whom it was born to
 *   trace                attaches to a child, detaches from it, ends it; pid: the child
 *   setuid UID           all ids of all threads; tid: each but the leader
 *   saved-uid UID        the saved id alone, which no event tells of
 *   setsid               leads a session
 *   rename NAME
 *   burn SECONDS MIB     takes so much of a CPU and touches so much memory
 */
#define _GNU_SOURCE
#include <err.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define THREADS 8

static char *program;
/* What follows the name of what to do. */
static char **rest;

/* Long enough for a listener to look at /proc: whether it is in time is not what is asked here. */
static void stay_a_moment(void)
{
	usleep(30000);
}

static void tell(const char *name, long id)
{
	printf("%s %ld\n", name, id);
	fflush(stdout);
}

static int check(int result, const char *what)
{
	if (result < 0)
		err(99, "%s", what);
	return result;
}

/* As fork(): `flags` are those of clone3(), `pid` is 0 or the one that the child shall have. */
static pid_t make_child(uint64_t flags, pid_t pid)
{
	struct clone_args args;

	memset(&args, 0, sizeof args);
	args.flags = flags;
	args.exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD;
	args.set_tid = pid ? (uintptr_t)&pid : 0;
	args.set_tid_size = pid ? 1 : 0;
	return (pid_t)check((int)syscall(SYS_clone3, &args, sizeof args), "clone3");
}

/* This program anew. */
static void become(char *what, char *with)
{
	char *arguments[] = {program, what, with, NULL};

	execv("/proc/self/exe", arguments);
	err(99, "exec");
}

static pid_t start(uint64_t flags, char *what, char *with)
{
	pid_t child = make_child(flags, 0);

	if (child == 0)
		become(what, with);
	return child;
}

static void reap_all(void)
{
	while (wait(NULL) > 0)
		;
}

static pthread_t start_thread(void *(*run)(void *))
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, run, NULL))
		errx(99, "pthread_create");
	return thread;
}

static int number(void)
{
	return atoi(rest[0]);
}

static void end_with_code(void)
{
	exit(number());
}

static void await_end_of_input(void)
{
	char byte;

	while (read(0, &byte, 1) > 0)
		;
	exit(number());
}

static void sleep_for_seconds(void)
{
	usleep((useconds_t)(atof(rest[0]) * 1e6));
}

static void end_by_signal(void)
{
	struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};

	check(setrlimit(RLIMIT_CORE, &limit), "setrlimit");
	signal(number(), SIG_DFL);
	raise(number());
}

static pthread_barrier_t all_told;

static void *tell_and_pause(void *unused)
{
	tell("tid", gettid());
	pthread_barrier_wait(&all_told);
	for (;;)
		pause();
	return unused;
}

static void start_threads(void)
{
	pthread_barrier_init(&all_told, NULL, THREADS + 1);
	for (int n = 0; n < THREADS; n++)
		start_thread(tell_and_pause);
	pthread_barrier_wait(&all_told);
	stay_a_moment();
}

static void end_with_threads(void)
{
	start_threads();
	_exit(number());
}

/* A leader that has ended stays as a zombie as long as there are threads. */
static int leader_has_ended(void)
{
	char path[64], state = 0;

	snprintf(path, sizeof path, "/proc/self/task/%d/stat", getpid());
	FILE *stat = fopen(path, "r");
	if (!stat || fscanf(stat, "%*d (%*[^)]) %c", &state) != 1)
		errx(99, "%s cannot be read", path);
	fclose(stat);
	return state == 'Z';
}

static void *end_after_leader(void *unused)
{
	tell("tid", gettid());
	while (!leader_has_ended())
		usleep(1000);
	stay_a_moment();
	_exit(number());
	return unused;
}

static void end_leader_first(void)
{
	start_thread(end_after_leader);
	pthread_exit(NULL);
}

static void *exec_in_thread(void *unused)
{
	tell("tid", gettid());
	become("exit", rest[0]);
	return unused;
}

static void exec_from_thread(void)
{
	pthread_join(start_thread(exec_in_thread), NULL);
}

static void let_child_reap_itself(void)
{
	signal(SIGCHLD, SIG_IGN);
	tell("pid", start(0, "exit", rest[0]));
	reap_all();
}

static void fork_without_exec(void)
{
	pid_t child = make_child(0, 0);

	if (child == 0) {
		stay_a_moment();
		_exit(number());
	}
	tell("pid", child);
	reap_all();
}

/* The PID is that of a child that came and went: now nobody has it. */
static void reuse_pid(void)
{
	pid_t pid = make_child(0, 0);
	char code[16];

	if (pid == 0)
		_exit(0);
	reap_all();
	tell("pid", pid);
	for (int n = 1; n <= number(); n++) {
		snprintf(code, sizeof code, "%d", n);
		if (make_child(0, pid) == 0)
			become("exit", code);
		reap_all();
	}
}

static void *fork_in_thread(void *unused)
{
	tell("tid", gettid());
	tell("pid", start(0, "exit", "0"));
	reap_all();
	return unused;
}

static void fork_from_thread(void)
{
	pthread_join(start_thread(fork_in_thread), NULL);
}

static void make_sibling(void)
{
	tell("pid", start(CLONE_PARENT, "exit", "0"));
}

static void nest(void)
{
	tell("creator", start(0, rest[0], rest[1]));
	reap_all();
}

static void adopt_orphan(void)
{
	check(prctl(PR_SET_CHILD_SUBREAPER, 1), "prctl");
	start(0, "orphan", rest[0]);
	reap_all();
}

static void leave_orphan(void)
{
	tell("parent", getpid());
	tell("pid", start(0, "late", rest[0]));
	stay_a_moment();
	stay_a_moment();
}

static void end_after_parent(void)
{
	pid_t parent = getppid();

	while (getppid() == parent)
		usleep(1000);
	stay_a_moment();
	exit(number());
}

static void trace_child(void)
{
	pid_t child = start(0, "sleep", "60");

	tell("pid", child);
	stay_a_moment();
	stay_a_moment();
	check(ptrace(PTRACE_ATTACH, child, NULL, NULL), "attach");
	check(waitpid(child, NULL, 0), "waitpid");
	stay_a_moment();
	check(ptrace(PTRACE_DETACH, child, NULL, NULL), "detach");
	stay_a_moment();
	check(kill(child, SIGKILL), "kill");
	reap_all();
}

static void set_ids(void)
{
	start_threads();
	check(setresuid(number(), number(), number()), "setresuid");
}

static void set_saved_id(void)
{
	check(setresuid(-1, -1, number()), "setresuid");
}

static void lead_session(void)
{
	check(setsid(), "setsid");
}

static void take_name(void)
{
	check(prctl(PR_SET_NAME, rest[0]), "prctl");
}

static void burn(void)
{
	size_t bytes = (size_t)atol(rest[1]) << 20;
	volatile char *memory = malloc(bytes);
	double seconds = atof(rest[0]);
	struct timespec used;

	if (!memory)
		errx(99, "no memory");
	for (size_t at = 0; at < bytes; at += 4096)
		memory[at] = 1;
	do
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
	while (used.tv_sec + used.tv_nsec * 1e-9 < seconds);
}

static const struct {
	const char *name;
	int arguments;
	void (*live)(void);
} LIVES[] = {
	{"exit", 1, end_with_code},
	{"await", 1, await_end_of_input},
	{"sleep", 1, sleep_for_seconds},
	{"signal", 1, end_by_signal},
	{"threads", 1, end_with_threads},
	{"leader-first", 1, end_leader_first},
	{"exec-thread", 1, exec_from_thread},
	{"auto-reaped", 1, let_child_reap_itself},
	{"forked", 1, fork_without_exec},
	{"reuse", 1, reuse_pid},
	{"thread-child", 0, fork_from_thread},
	{"clone-parent", 0, make_sibling},
	{"nest", 1, nest},
	{"adopt", 1, adopt_orphan},
	{"orphan", 1, leave_orphan},
	{"late", 1, end_after_parent},
	{"trace", 0, trace_child},
	{"setuid", 1, set_ids},
	{"saved-uid", 1, set_saved_id},
	{"setsid", 0, lead_session},
	{"rename", 1, take_name},
	{"burn", 2, burn},
};

int main(int count, char **arguments)
{
	program = arguments[0];
	rest = arguments + 2;
	stay_a_moment();
	for (size_t n = 0; count > 1 && n < sizeof LIVES / sizeof *LIVES; n++) {
		if (strcmp(LIVES[n].name, arguments[1]) || count - 2 < LIVES[n].arguments)
			continue;
		LIVES[n].live();
		stay_a_moment();
		return 0;
	}
	errx(99, "there is no such life");
}
