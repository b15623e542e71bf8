/* compute: as much arithmetic as there is time for, on all CPUs. */
#include "throughput.h"

static volatile uint64_t sink = 1;

static void work(void)
{
	uint64_t x = sink;
	for (int i = 0; i < 50000; i++)
		x = x * 6364136223846793005u + 1442695040888963407u;
	sink = x;
}

int main(int argc, char **argv)
{
	return measure("compute", argc, argv);
}
