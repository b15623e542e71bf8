/* idle: sleeps, so that what a profiler costs on a machine with nothing to do can be measured. */
#include <errno.h>
#include <unistd.h>

#include "clock.h"

int main(int argc, char **argv)
{
	int64_t duration = duration_arg(argc, argv);
	struct timespec left = { .tv_sec = duration / 1000000000, .tv_nsec = duration % 1000000000 };
	int err;
	while ((err = clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left)) == EINTR)
		;
	if (err) {
		errno = err;
		perror("clock_nanosleep");
		return 1;
	}
	printf("{\"program\":\"idle\",\"pid\":%d,\"seconds\":%.3f,\"iterations\":0}\n", getpid(), (double)duration / 1e9);
}
