/*
 * libraries: a program linked to 150 shared libraries, as browsers and office programs are. Each stack wanders
 * through a dozen of them, so that an unwinder needs many tables and a symbolizer many files.
 */
#include <inttypes.h>
#include <unistd.h>

#include "clock.h"
#include "library.h"

#define LIBRARY(id) step_function NAME(id);
#include "libraries.list"
#undef LIBRARY

static const struct table table = { {
#define LIBRARY(id) NAME(id),
#include "libraries.list"
} };

static volatile uint64_t sink;

int main(int argc, char **argv)
{
	int64_t start = clock_ns(CLOCK_MONOTONIC);
	int64_t deadline = start + duration_arg(argc, argv);
	uint64_t iterations = 0;
	for (; clock_ns(CLOCK_MONOTONIC) < deadline; iterations++)
		sink = table.steps[iterations % LIBRARIES](iterations, 12, &table);
	printf("{\"program\":\"libraries\",\"pid\":%d,\"seconds\":%.3f,\"iterations\":%" PRIu64 "}\n",
	       getpid(), (double)(clock_ns(CLOCK_MONOTONIC) - start) / 1e9, iterations);
}
