/*
 * What the programs share whose work in a time is measured: on each CPU a process that is pinned to it does one round of
 * work after another until the time is over. Prints how many rounds all did.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"

/* One round, of some 50 microseconds: the clock is looked at after each. */
static void work(void);

struct worker {
	uint64_t rounds;
	char padding[120]; /* lines of the cache that no two share */
};

static int measure(const char *program, int argc, char **argv)
{
	int64_t start = clock_ns(CLOCK_MONOTONIC), deadline = start + duration_arg(argc, argv);
	cpu_set_t allowed;
	struct worker *workers = mmap(NULL, CPU_SETSIZE * sizeof *workers, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (workers == MAP_FAILED || sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
		perror(program);
		return 1;
	}
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &allowed))
			continue;
		pid_t pid = fork();
		if (pid < 0) {
			perror("fork");
			return 1;
		}
		if (pid == 0) {
			cpu_set_t one;
			CPU_ZERO(&one);
			CPU_SET(cpu, &one);
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			if (sched_setaffinity(0, sizeof one, &one) != 0)
				_exit(1);
			for (; clock_ns(CLOCK_MONOTONIC) < deadline; workers[cpu].rounds++)
				work();
			_exit(0);
		}
	}
	uint64_t rounds = 0;
	int status, failed = 0;
	while (wait(&status) > 0)
		failed += status != 0;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		rounds += workers[cpu].rounds;
	printf("{\"program\":\"%s\",\"pid\":%d,\"seconds\":%.6f,\"iterations\":%" PRIu64 "}\n", program, getpid(),
	       (double)(clock_ns(CLOCK_MONOTONIC) - start) / 1e9, rounds);
	return failed != 0;
}
