/*
 * recursion DEPTH: computes for ever DEPTH calls below main. Three kinds of frames take turns: one of fixed size, one
 * whose size is known when it runs, one that is aligned. Writes a byte when it is there.
 */
#include <stdlib.h>
#include <unistd.h>

#define FUNCTION __attribute__((noipa)) static

static volatile unsigned long sink;

FUNCTION void spin(void)
{
	if (write(1, "x", 1) != 1)
		exit(1);
	for (;;)
		sink = sink * 31 + 1;
}

FUNCTION long fixed(long n);
FUNCTION long dynamic(long n);
FUNCTION long aligned(long n);

#define DESCEND(n) ((n) == 0 ? (spin(), 0) : (n) % 3 == 0 ? fixed((n) - 1) : (n) % 3 == 1 ? dynamic((n) - 1) : aligned((n) - 1))

FUNCTION long fixed(long n)
{
	long before = sink;
	return DESCEND(n) + before;
}

FUNCTION long dynamic(long n)
{
	volatile char frame[n % 50 + 1];
	frame[n % 50] = (char)n;
	return DESCEND(n) + frame[0];
}

FUNCTION long aligned(long n)
{
	_Alignas(64) volatile char frame[64];
	frame[n % 64] = (char)n;
	return DESCEND(n) + frame[0];
}

int main(int argc, char **argv)
{
	long depth = argc == 2 ? atol(argv[1]) : 0;
	return (int)DESCEND(depth);
}
