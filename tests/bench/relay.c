/* The least that any proxy can do: each client has a server connection of its own, and bytes go to and fro unread.
 * What it costs is what the system calls cost, so it is the floor under the figures of the others. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

struct end {
	int fd;
	struct end *other;
};

static char bytes[16384];
static int poll_fd;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static struct sockaddr_in here(const char *port)
{
	struct sockaddr_in address = { .sin_family = AF_INET };

	address.sin_port = htons(atoi(port));
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return address;
}

static void watch(struct end *end)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = end };
	int on = 1;

	setsockopt(end->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, end->fd, &event))
		fail("epoll_ctl");
}

static void take(int listener, const struct sockaddr_in *server)
{
	struct end *client = malloc(sizeof *client), *backend = malloc(sizeof *backend);

	client->fd = accept(listener, NULL, NULL);
	backend->fd = socket(AF_INET, SOCK_STREAM, 0);
	if (client->fd < 0 || connect(backend->fd, (const void *)server, sizeof *server))
		fail("a client");
	client->other = backend;
	backend->other = client;
	watch(client);
	watch(backend);
}

/* Of two ends that close in the same turn the second may still be looked at: neither is freed. */
static void end_both(struct end *end)
{
	close(end->fd);
	close(end->other->fd);
	end->fd = end->other->fd = -1;
}

static void pass_on(struct end *from)
{
	ssize_t count;

	/* A whole buffer may not have been all. */
	do {
		count = from->fd < 0 ? -1 : recv(from->fd, bytes, sizeof bytes, MSG_DONTWAIT);
		if (from->fd < 0 || (count < 0 && errno == EAGAIN))
			return;
		if (count <= 0 || send(from->other->fd, bytes, count, MSG_NOSIGNAL) != count) {
			end_both(from);
			return;
		}
	} while (count == sizeof bytes);
}

int main(int count, char **arguments)
{
	/* As komainu's threads, so that it is woken as often. */
	struct sched_param parameters = { 0 };
	struct sockaddr_in own, server;
	struct epoll_event events[256], accepting = { .events = EPOLLIN };
	int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;

	if (count != 3) {
		fprintf(stderr, "usage: relay PORT SERVER_PORT\n");
		return 64;
	}
	own = here(arguments[1]);
	server = here(arguments[2]);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(listener, (void *)&own, sizeof own) || listen(listener, 512))
		fail("listen");
	poll_fd = epoll_create1(0);
	if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, listener, &accepting))
		fail("epoll_ctl");
	sched_setscheduler(0, SCHED_BATCH, &parameters);
	for (;;) {
		int ready = epoll_wait(poll_fd, events, 256, -1);

		for (int i = 0; i < ready; i++) {
			if (events[i].data.ptr)
				pass_on(events[i].data.ptr);
			else
				take(listener, &server);
		}
	}
}
