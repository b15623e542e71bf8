/*
 * forkstorm: two loops, each running `true`, `ls /` and `gcc -O2` of a one-line file in turn: processes that
 * live for a millisecond or two, and a compiler that execs a chain of others. Prints how often each command
 * ran, the CPU time that wait4 charged it with its children, how much of it passed before exec, when the process
 * was a copy of this one, and the CPU time of the loops themselves.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"

#define LOOPS 2

enum command { TRUE, LS, GCC, COMMANDS };

static const char *const names[COMMANDS] = { "true", "ls /", "gcc -O2" };

struct tally {
	uint64_t runs, failed;
	int64_t cpu_ns;
	int64_t fork_ns; /* of cpu_ns, until exec was called; written by the children, one after the other */
	int64_t loop_ns; /* of the loop itself, in its first tally */
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void run(enum command command, const char *source, const char *output, struct tally *tally)
{
	pid_t pid = fork();
	if (pid < 0)
		die("fork");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		int null = open("/dev/null", O_RDWR);
		if (null < 0 || dup2(null, STDOUT_FILENO) < 0)
			die("/dev/null");
		tally->fork_ns += clock_ns(CLOCK_PROCESS_CPUTIME_ID);
		switch (command) {
		case TRUE:
			execlp("true", "true", (char *)0);
			break;
		case LS:
			execlp("ls", "ls", "/", (char *)0);
			break;
		default:
			execlp("gcc", "gcc", "-O2", "-o", output, source, (char *)0);
		}
		die(names[command]);
	}
	int status;
	struct rusage u;
	while (wait4(pid, &status, 0, &u) < 0)
		if (errno != EINTR)
			die("wait4");
	tally->runs++;
	tally->failed += status != 0;
	tally->cpu_ns += (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000LL +
			 (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000LL;
}

int main(int argc, char **argv)
{
	int64_t start = clock_ns(CLOCK_MONOTONIC);
	int64_t deadline = start + duration_arg(argc, argv);

	char dir[] = "/tmp/forkstorm-XXXXXX";
	char source[sizeof dir + 16], output[LOOPS][sizeof dir + 16];
	if (!mkdtemp(dir))
		die("mkdtemp");
	snprintf(source, sizeof source, "%s/line.c", dir);
	FILE *f = fopen(source, "w");
	if (!f || fputs("int main(void) { return 0; }\n", f) < 0 || fclose(f) != 0)
		die(source);

	/* Each loop and its children write a row of their own; the parent reads them once the loops have ended. */
	struct tally(*rows)[COMMANDS] = mmap(NULL, sizeof(struct tally[LOOPS][COMMANDS]), PROT_READ | PROT_WRITE,
					     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (rows == MAP_FAILED)
		die("mmap");
	pid_t loops[LOOPS];
	for (int i = 0; i < LOOPS; i++) {
		snprintf(output[i], sizeof output[i], "%s/out%d", dir, i);
		loops[i] = fork();
		if (loops[i] < 0)
			die("fork");
		if (loops[i] == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (enum command c = 0; clock_ns(CLOCK_MONOTONIC) < deadline; c = (c + 1) % COMMANDS)
				run(c, source, output[i], &rows[i][c]);
			rows[i][0].loop_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
			_exit(0);
		}
	}
	uint64_t failed = 0;
	int64_t loops_ns = 0;
	for (int i = 0; i < LOOPS; i++) {
		int status;
		if (waitpid(loops[i], &status, 0) < 0)
			die("waitpid");
		failed += status != 0;
		loops_ns += rows[i][0].loop_ns;
		unlink(output[i]); /* absent if no gcc came to its turn */
	}
	if (unlink(source) != 0 || rmdir(dir) != 0)
		die(dir);

	printf("{\"program\":\"forkstorm\",\"pid\":%d,\"seconds\":%.3f,\"loops_ns\":%" PRId64 ",\"commands\":[",
	       getpid(), (double)(clock_ns(CLOCK_MONOTONIC) - start) / 1e9, loops_ns);
	for (enum command c = 0; c < COMMANDS; c++) {
		struct tally sum = { 0 };
		for (int i = 0; i < LOOPS; i++) {
			sum.runs += rows[i][c].runs;
			sum.failed += rows[i][c].failed;
			sum.cpu_ns += rows[i][c].cpu_ns;
			sum.fork_ns += rows[i][c].fork_ns;
		}
		failed += sum.failed;
		printf("%s{\"command\":\"%s\",\"runs\":%" PRIu64 ",\"cpu_ns\":%" PRId64 ",\"fork_ns\":%" PRId64 "}",
		       c ? "," : "", names[c], sum.runs, sum.cpu_ns, sum.fork_ns);
	}
	printf("]}\n");
	if (failed) {
		fprintf(stderr, "forkstorm: %" PRIu64 " commands or loops failed\n", failed);
		return 1;
	}
}
