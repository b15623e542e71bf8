/* liblazy.so: functions that call each other through its own PLT, each bound by the loader at its first call. */
#include "lazy.h"
#include "work.h"

#define LAZY(name) uint64_t name(uint64_t);
LAZY_FUNCTIONS
#undef LAZY

#define LAZY(name)                                    \
	uint64_t name(uint64_t x)                     \
	{                                             \
		volatile uint64_t frame[3] = { x };   \
		return frame[0] * 31 + (x & 7);       \
	}
LAZY_FUNCTIONS
#undef LAZY

uint64_t lazy_all(uint64_t x)
{
#define LAZY(name) x += name(x) ^ name(x + 1);
	LAZY_FUNCTIONS
#undef LAZY
	return x;
}
