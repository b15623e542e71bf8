/* vdso: asks for the time all the time, in the code that the kernel maps into each process. */
#include <sys/time.h>
#include <time.h>

#include "work.h"

static volatile uint64_t sink;

FUNCTION void ask(void)
{
	struct timespec ts;
	struct timeval tv;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	gettimeofday(&tv, NULL);
	sink += (uint64_t)ts.tv_nsec ^ (uint64_t)tv.tv_usec;
}

FUNCTION void descend(int depth)
{
	volatile uint64_t frame[6] = { (uint64_t)depth };
	if (depth > 0)
		descend(depth - 1);
	else
		for (int i = 0; i < 1000; i++)
			ask();
	sink += frame[0];
}

int main(void)
{
	say("vdso", 1);
	for (;;)
		descend(10);
}
