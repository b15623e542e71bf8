/* callbacks: libc's qsort, tsearch and bsearch call back into the program, whose comparison is two calls deep. */
#include <search.h>
#include <string.h>

#include "work.h"

#define COUNT 3000

static volatile uint64_t sink;
static uint64_t values[COUNT];

FUNCTION int order(uint64_t a, uint64_t b)
{
	a = scramble(a, 3), b = scramble(b, 3);
	return (a > b) - (a < b);
}

static int compare(const void *a, const void *b)
{
	int sign = order(*(const uint64_t *)a, *(const uint64_t *)b);
	sink += (uint64_t)sign;
	return sign;
}

FUNCTION void sort(uint64_t seed)
{
	for (int i = 0; i < COUNT; i++)
		values[i] = seed = scramble(seed + (uint64_t)i, 1);
	qsort(values, COUNT, sizeof values[0], compare);
	sink += bsearch(&values[COUNT / 3], values, COUNT, sizeof values[0], compare) != NULL;
}

FUNCTION void grow_tree(void)
{
	void *root = NULL;
	for (int i = 0; i < COUNT; i += 3)
		tsearch(&values[i], &root, compare);
	for (int i = 0; i < COUNT; i += 3)
		tdelete(&values[i], &root, compare);
}

int main(void)
{
	say("callbacks", 1);
	for (uint64_t seed = 1;; seed++) {
		sort(seed);
		grow_tree();
	}
}
