#pragma once
#include <stdint.h>

#define LIBRARIES 150
#define NAME_(id) lib##id##_step
#define NAME(id) NAME_(id)

struct table;

/* What each library exports, as libNNN_step: some work, then `hops` further libraries out of the table. */
typedef uint64_t step_function(uint64_t x, unsigned hops, const struct table *table);

struct table {
	step_function *steps[LIBRARIES];
};
