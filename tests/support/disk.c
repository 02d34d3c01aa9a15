/* Preloaded into a PostgreSQL server of a test: what its log is written to does as a file says.
   "hang": nothing reaches it while the file says so; "fail": EIO. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
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

static char order(void)
{
	const char *path = getenv("KOMAINU_TEST_DISK");
	int fd = path ? open(path, O_RDONLY) : -1;
	char order = 0;
	if (fd >= 0) {
		if (read(fd, &order, 1) != 1)
			order = 0;
		close(fd);
	}
	return order;
}

static int sync_as(const char *name, int fd)
{
	int (*real)(int) = (int (*)(int)) dlsym(RTLD_NEXT, name);
	if (is_log(fd)) {
		char now;
		while ((now = order()) == 'h')
			usleep(20000);
		if (now == 'f') {
			errno = EIO;
			return -1;
		}
	}
	return real(fd);
}

int fsync(int fd) { return sync_as("fsync", fd); }
int fdatasync(int fd) { return sync_as("fdatasync", fd); }
