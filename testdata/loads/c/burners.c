/*
 * burners: two processes, each pinned to a CPU of its own and doing nothing but user-mode arithmetic. What a
 * profiler counts for them must equal what the kernel charged them, which wait4 tells here.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"

#define BURNERS 2

static volatile uint64_t sink;

__attribute__((noipa)) static void burn(int64_t deadline)
{
	uint64_t x = 1;
	while (clock_ns(CLOCK_MONOTONIC) < deadline) {
		for (int i = 0; i < 100000; i++)
			x = x * 6364136223846793005u + 1442695040888963407u;
		sink = x;
	}
}

static int64_t cpu_ns(const struct rusage *u)
{
	return (u->ru_utime.tv_sec + u->ru_stime.tv_sec) * 1000000000LL +
	       (u->ru_utime.tv_usec + u->ru_stime.tv_usec) * 1000LL;
}

int main(int argc, char **argv)
{
	int64_t start = clock_ns(CLOCK_MONOTONIC);
	int64_t deadline = start + duration_arg(argc, argv);
	cpu_set_t allowed;
	if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
		perror("sched_getaffinity");
		return 1;
	}
	struct {
		pid_t pid;
		int cpu;
	} burners[BURNERS];
	int started = 0;
	for (int cpu = 0; cpu < CPU_SETSIZE && started < BURNERS; cpu++) {
		if (!CPU_ISSET(cpu, &allowed))
			continue;
		pid_t pid = fork();
		if (pid < 0) {
			perror("fork");
			return 1;
		}
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			cpu_set_t one;
			CPU_ZERO(&one);
			CPU_SET(cpu, &one);
			if (sched_setaffinity(0, sizeof one, &one) != 0) {
				perror("sched_setaffinity");
				_exit(1);
			}
			burn(deadline);
			_exit(0);
		}
		burners[started].pid = pid;
		burners[started].cpu = cpu;
		started++;
	}
	if (started < BURNERS) {
		fprintf(stderr, "burners: %d CPUs allowed, %d needed\n", started, BURNERS);
		return 1;
	}
	printf("{\"program\":\"burners\",\"pid\":%d,\"burners\":[", getpid());
	for (int i = 0; i < BURNERS; i++) {
		int status;
		struct rusage usage;
		if (wait4(burners[i].pid, &status, 0, &usage) < 0 || status != 0) {
			fprintf(stderr, "burners: pid %d ended with status %#x\n", burners[i].pid, status);
			return 1;
		}
		printf("%s{\"pid\":%d,\"cpu\":%d,\"cpu_ns\":%" PRId64 "}",
		       i ? "," : "", burners[i].pid, burners[i].cpu, cpu_ns(&usage));
	}
	printf("],\"seconds\":%.3f}\n", (double)(clock_ns(CLOCK_MONOTONIC) - start) / 1e9);
}
