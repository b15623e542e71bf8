// A program that the test steps through, instruction by instruction, while it walks its stack: calls through the
// procedure linkage table that the dynamic linker binds at their first use, callbacks from libc, recursion, frames
// aligned for vectors, frames of variable size, longjmp, a signal handler, and the vDSO.
#include <alloca.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NOINLINE __attribute__((noinline, noclone))

static volatile uint64_t sink;
static jmp_buf env;

static NOINLINE int compare(const void *a, const void *b)
{
	sink++;
	return *(const int *)a - *(const int *)b;
}

static NOINLINE void sort(void)
{
	int v[12];
	for (int i = 0; i < 12; i++)
		v[i] = i * 7919 % 101;
	qsort(v, 12, sizeof v[0], compare);
	sink += v[3];
}

static NOINLINE int recurse(int n)
{
	char buf[40];
	memset(buf, n, sizeof buf);
	if (n == 0) {
		sort();
		return buf[1];
	}
	int r = recurse(n - 1);
	return r + buf[n % 40];
}

// The frame is aligned to 64 bytes, and its size is known at run time alone: gcc reaches the caller's frame through
// a copy of the argument pointer.
static NOINLINE int aligned(int n)
{
	char *p = alloca(n);
	_Alignas(64) volatile char v[128];
	v[n & 127] = 1;
	memset(p, n, n);
	sort();
	return p[n / 2] + v[3];
}

static NOINLINE void jump(int n)
{
	volatile char pad[200];
	pad[n] = 1;
	if (n == 0)
		longjmp(env, 1);
	jump(n - 1);
	sink += pad[0];
}

static void handler(int sig)
{
	sort();
	sink += sig;
}

static NOINLINE int interrupted(void)
{
	signal(SIGUSR1, handler);
	return raise(SIGUSR1) + 1;
}

int main(int argc, char **argv)
{
	struct timespec ts;
	sink += recurse(5);
	sink += aligned(100 + argc);
	if (setjmp(env) == 0)
		jump(3);
	sink += interrupted();
	clock_gettime(CLOCK_MONOTONIC, &ts);
	sink += ts.tv_nsec;
	char text[64];
	snprintf(text, sizeof text, "%d %.3f %s", argc, 1.5 * argc, argv[0]);
	sink += strlen(text) + strtol("4711", NULL, 10);
	return 0;
}
