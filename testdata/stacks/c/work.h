/* What the programs share: functions that stay what they are, work to do, and the line that says the truth. */
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define FUNCTION __attribute__((noipa)) static

static inline uint64_t scramble(uint64_t x, int rounds)
{
	for (int i = 0; i < rounds; i++)
		x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9u;
	return x;
}

/* The line that each program prints before its work: every stack of its work has at least depth frames. */
static inline void say(const char *program, int depth)
{
	printf("{\"program\":\"%s\",\"pid\":%d,\"depth\":%d}\n", program, (int)getpid(), depth);
	fflush(stdout);
}
