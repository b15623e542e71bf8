/*
 * deep: stacks 45 deep (main counted) of code without frame pointers, which only .eh_frame can unwind. Every
 * level has a frame of another size and some work of its own, so that samples hit all depths.
 */
#include <inttypes.h>
#include <unistd.h>

#include "clock.h"

#define FUNCTION __attribute__((noipa)) static

FUNCTION uint64_t leaf(uint64_t x)
{
	for (int i = 0; i < 20000; i++)
		x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9u;
	return x;
}

#define LEVEL(n, next)                                                 \
	FUNCTION uint64_t level##n(uint64_t x)                         \
	{                                                              \
		volatile uint64_t frame[n];                            \
		for (int i = 0; i < 500; i++)                          \
			frame[i % n] = x += (x << 7) ^ (uint64_t)i;    \
		x = next(x);                                           \
		return x ^ frame[n - 1];                               \
	}

LEVEL(43, leaf)
LEVEL(42, level43) LEVEL(41, level42) LEVEL(40, level41)
LEVEL(39, level40) LEVEL(38, level39) LEVEL(37, level38)
LEVEL(36, level37) LEVEL(35, level36) LEVEL(34, level35)
LEVEL(33, level34) LEVEL(32, level33) LEVEL(31, level32)
LEVEL(30, level31) LEVEL(29, level30) LEVEL(28, level29)
LEVEL(27, level28) LEVEL(26, level27) LEVEL(25, level26)
LEVEL(24, level25) LEVEL(23, level24) LEVEL(22, level23)
LEVEL(21, level22) LEVEL(20, level21) LEVEL(19, level20)
LEVEL(18, level19) LEVEL(17, level18) LEVEL(16, level17)
LEVEL(15, level16) LEVEL(14, level15) LEVEL(13, level14)
LEVEL(12, level13) LEVEL(11, level12) LEVEL(10, level11)
LEVEL(9, level10) LEVEL(8, level9) LEVEL(7, level8)
LEVEL(6, level7) LEVEL(5, level6) LEVEL(4, level5)
LEVEL(3, level4) LEVEL(2, level3) LEVEL(1, level2)

static volatile uint64_t sink;

int main(int argc, char **argv)
{
	int64_t start = clock_ns(CLOCK_MONOTONIC);
	int64_t deadline = start + duration_arg(argc, argv);
	uint64_t iterations = 0, x = 1;
	for (; clock_ns(CLOCK_MONOTONIC) < deadline; iterations++)
		sink = x = level1(x);
	printf("{\"program\":\"deep\",\"pid\":%d,\"seconds\":%.3f,\"iterations\":%" PRIu64 "}\n",
	       getpid(), (double)(clock_ns(CLOCK_MONOTONIC) - start) / 1e9, iterations);
}
