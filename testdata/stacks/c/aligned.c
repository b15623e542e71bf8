/*
 * aligned: frames aligned to 32 bytes for AVX. GCC realigns the stack pointer there and keeps the address of the
 * arguments in another register (DRAP), so that the caller is found by dereferencing a saved word
 * (DW_CFA_def_cfa_expression). Variable-length arrays make sure that the frame has to be addressed so.
 */
#include <stdalign.h>

#include "work.h"

typedef double lanes __attribute__((vector_size(32)));

static volatile double sink;

FUNCTION double leaf(const lanes *in, int n)
{
	alignas(32) volatile lanes sum = { 0 };
	for (int i = 0; i < n; i++)
		sum += in[i] * in[i];
	return sum[0] + sum[3];
}

FUNCTION double descend(int depth, int n)
{
	alignas(32) lanes fixed[4];
	lanes variable[n];
	for (int i = 0; i < n; i++)
		variable[i] = (lanes){ i, depth, i * depth, 1 };
	for (int i = 0; i < 4; i++)
		fixed[i] = variable[i % n];
	double sum = leaf(variable, n) + leaf(fixed, 4);
	if (depth > 0)
		sum += descend(depth - 1, n % 7 + 3);
	return sum + leaf(fixed, 4);
}

int main(void)
{
	if (!__builtin_cpu_supports("avx2")) {
		fprintf(stderr, "aligned: this CPU has no AVX2\n");
		return 1;
	}
	say("aligned", 1);
	for (;;)
		sink = descend(15, 5);
}
