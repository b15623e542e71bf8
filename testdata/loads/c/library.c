/* One of the libraries of `libraries`: built 150 times with another ID each, a number of three digits. */
#include <stdlib.h>

#include "library.h"

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

uint64_t NAME(ID)(uint64_t x, unsigned hops, const struct table *table)
{
	uint32_t values[32];
	for (int i = 0; i < 32; i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		values[i] = (uint32_t)(x >> 32);
	}
	/* Through libc and back: the stacks of real programs cross it all the time. */
	qsort(values, 32, sizeof values[0], compare);
	x ^= values[0];
	if (hops > 0)
		x += table->steps[(x >> 33) % LIBRARIES](x, hops - 1, table);
	return x;
}
