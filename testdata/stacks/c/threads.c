/* threads: two threads, whose stacks end in another root than main's, and that come and go. */
#include <pthread.h>

#include "work.h"

FUNCTION uint64_t descend(int depth, uint64_t x)
{
	volatile uint64_t frame[7] = { x };
	if (depth == 0)
		return scramble(x, 2000);
	return descend(depth - 1, frame[0] + 1) ^ frame[0];
}

static void *work(void *argument)
{
	uint64_t x = (uint64_t)(uintptr_t)argument;
	for (int i = 0; i < 20000; i++)
		x = descend(12, x);
	return (void *)(uintptr_t)x;
}

int main(void)
{
	say("threads", 1);
	for (;;) {
		pthread_t threads[2];
		for (int i = 0; i < 2; i++)
			if (pthread_create(&threads[i], NULL, work, NULL) != 0)
				return 1;
		for (int i = 0; i < 2; i++)
			if (pthread_join(threads[i], NULL) != 0)
				return 1;
	}
}
