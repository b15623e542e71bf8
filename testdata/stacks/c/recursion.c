/* recursion N: one function N times above main, with work in the last call only, so that every stack is that deep. */
#include "work.h"

static volatile uint64_t sink;
static volatile int stop; /* never, which GCC must not know */

FUNCTION uint64_t descend(int depth, uint64_t x)
{
	while (depth <= 1 && !stop)
		sink = x = scramble(x, 1000);
	if (depth <= 1)
		return x;
	return descend(depth - 1, x + 1) ^ x;
}

int main(int argc, char **argv)
{
	int depth = argc == 2 ? atoi(argv[1]) : 0;
	if (depth < 1) {
		fprintf(stderr, "usage: %s DEPTH\n", argv[0]);
		return 2;
	}
	say("recursion", depth + 1);
	descend(depth, 1);
}
