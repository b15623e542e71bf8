/* Clocks and the argument that all loads in C share. */
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static inline int64_t clock_ns(clockid_t id)
{
	struct timespec t;
	if (clock_gettime(id, &t) != 0) {
		perror("clock_gettime");
		exit(1);
	}
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* The only argument of each load: for how many seconds to run. Returned in ns. */
static inline int64_t duration_arg(int argc, char **argv)
{
	char *end = "";
	double seconds = argc == 2 ? strtod(argv[1], &end) : 0;
	if (!(seconds > 0 && seconds < 1e6) || *end != '\0') {
		fprintf(stderr, "usage: %s SECONDS\n", argv[0]);
		exit(2);
	}
	return (int64_t)(seconds * 1e9);
}
