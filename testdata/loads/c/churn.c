/*
 * churn: starts a thousand processes a second, each of which runs this program again and ends at once. Prints how many
 * there were: fewer where the machine is too busy for a thousand.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"

#define PER_SECOND 1000

extern char **environ;

int main(int argc, char **argv)
{
	if (argc == 1)
		return 0;
	int64_t start = clock_ns(CLOCK_MONOTONIC), deadline = start + duration_arg(argc, argv), now = start;
	uint64_t runs = 0;

	while ((now = clock_ns(CLOCK_MONOTONIC)) < deadline) {
		int64_t due = start + (int64_t)runs * (1000000000 / PER_SECOND);
		if (due > now) {
			struct timespec until = { .tv_sec = due / 1000000000, .tv_nsec = due % 1000000000 };
			clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
			continue;
		}
		pid_t pid;
		int err = posix_spawn(&pid, "/proc/self/exe", NULL, NULL, (char *[]){ argv[0], NULL }, environ);
		if (err != 0) {
			errno = err;
			perror("posix_spawn");
			return 1;
		}
		while (waitpid(pid, NULL, 0) < 0)
			if (errno != EINTR) {
				perror("waitpid");
				return 1;
			}
		runs++;
	}
	printf("{\"program\":\"churn\",\"pid\":%d,\"seconds\":%.3f,\"iterations\":%" PRIu64 "}\n", getpid(),
	       (double)(now - start) / 1e9, runs);
}
