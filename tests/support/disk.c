/* Preloaded into a PostgreSQL server of a test: what its log is written to does as a file says.
   "hang": nothing reaches it while the file says so; "fail": EIO; "crowded": a segment that is to be made waits for
   another order; "refuse": it cannot be made, for want of room. Each is known by its first letter. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_log(int fd)
{
	char link[64], path[4096];
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t length = readlink(link, path, sizeof path - 1);
	if (length < 0)
		return 0;
	path[length] = 0;
	return strstr(path, "/pg_wal/") != NULL;
}

typedef int (*open_as)(const char *, int, ...);

static char order(void)
{
	open_as real = (open_as) dlsym(RTLD_NEXT, "open");
	const char *path = getenv("KOMAINU_TEST_DISK");
	int fd = path ? real(path, O_RDONLY) : -1;
	char order = 0;
	if (fd >= 0) {
		if (read(fd, &order, 1) != 1)
			order = 0;
		close(fd);
	}
	return order;
}

/* Waits while it is ordered to wait; whether it is then ordered to fail, with this error. */
static int is_refused(char waits, char fails, int error)
{
	char now;
	while ((now = order()) == waits)
		usleep(20000);
	if (now != fails)
		return 0;
	errno = error;
	return 1;
}

/* PostgreSQL makes a segment under this name, and renames it. */
static int open_with(const char *name, const char *path, int flags, mode_t mode)
{
	if (flags & O_CREAT && strstr(path, "pg_wal/xlogtemp") && is_refused('c', 'r', ENOSPC))
		return -1;
	return ((open_as) dlsym(RTLD_NEXT, name))(path, flags, mode);
}

static int sync_as(const char *name, int fd)
{
	int (*real)(int) = (int (*)(int)) dlsym(RTLD_NEXT, name);
	if (is_log(fd) && is_refused('h', 'f', EIO))
		return -1;
	return real(fd);
}

int fsync(int fd) { return sync_as("fsync", fd); }
int fdatasync(int fd) { return sync_as("fdatasync", fd); }

#define OPEN(name) \
	int name(const char *path, int flags, ...) \
	{ \
		va_list more; \
		va_start(more, flags); \
		mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0; \
		va_end(more); \
		return open_with(#name, path, flags, mode); \
	}

OPEN(open)
OPEN(open64)
