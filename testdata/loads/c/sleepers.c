/*
 * sleepers: five thousand processes that do nothing, as a machine has on which much is deployed and little is used.
 * Prints how many there were.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"

#define SLEEPERS 5000

int main(int argc, char **argv)
{
	int64_t start = clock_ns(CLOCK_MONOTONIC), deadline = start + duration_arg(argc, argv);
	int started = 0;

	for (; started < SLEEPERS; started++) {
		pid_t pid = fork();
		if (pid < 0) {
			perror("fork");
			return 1;
		}
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (;;)
				pause();
		}
	}
	struct timespec until = { .tv_sec = deadline / 1000000000, .tv_nsec = deadline % 1000000000 };
	while ((errno = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL)) == EINTR)
		;
	signal(SIGTERM, SIG_IGN);
	if (errno || kill(0, SIGTERM) != 0) { /* loads are leaders of their process groups */
		perror("sleepers");
		return 1;
	}
	while (wait(NULL) > 0)
		;
	printf("{\"program\":\"sleepers\",\"pid\":%d,\"seconds\":%.3f,\"iterations\":%d}\n", getpid(),
	       (double)(clock_ns(CLOCK_MONOTONIC) - start) / 1e9, started);
}
