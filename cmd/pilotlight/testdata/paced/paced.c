/* Works for a few milliseconds, pauses for some more, and so on for ever: hundreds of it run at once. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

__attribute__((noinline)) static unsigned long leaf(unsigned long x)
{
	for (int i = 0; i < 1000; i++)
		x = x * 6364136223846793005ul + 1442695040888963407ul;
	return x;
}

__attribute__((noinline)) static unsigned long work(double seconds)
{
	unsigned long x = 1;
	for (double end = now(CLOCK_THREAD_CPUTIME_ID) + seconds; now(CLOCK_THREAD_CPUTIME_ID) < end;)
		x += leaf(x);
	return x;
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: paced WORK PAUSE, both in seconds\n");
		return 2;
	}
	double pause = atof(argv[2]);
	for (unsigned long x = 0;; x += work(atof(argv[1]))) {
		struct timespec t = {(time_t)pause, (long)((pause - (time_t)pause) * 1e9)};
		nanosleep(&t, NULL);
		if (x == 42)
			puts("kept");
	}
}
