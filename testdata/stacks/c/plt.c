/*
 * plt: loads and unloads a library again and again, whose functions are bound at their first call, so that much of
 * the time is spent in PLT entries, in the loader's resolver and in dlopen; between them come bound calls.
 */
#include <dlfcn.h>
#include <string.h>

#include "work.h"

static volatile uint64_t sink;

FUNCTION uint64_t bound(const char *text)
{
	uint64_t sum = 0;
	for (int i = 0; i < 50; i++)
		sum += strlen(text + i % 7) + (uint64_t)abs((int)sum) + (uint64_t)atoi(text + i % 5);
	return sum;
}

FUNCTION uint64_t once(const char *library)
{
	void *handle = dlopen(library, RTLD_LAZY | RTLD_LOCAL);
	uint64_t (*all)(uint64_t) = handle ? (uint64_t (*)(uint64_t))dlsym(handle, "lazy_all") : NULL;
	if (!all) {
		fprintf(stderr, "plt: %s\n", dlerror());
		exit(1);
	}
	uint64_t x = all(sink);
	for (int i = 0; i < 20; i++)
		x += bound("12345678") + all(x);
	dlclose(handle);
	return x;
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: %s LIBRARY\n", argv[0]);
		return 2;
	}
	say("plt", 1);
	for (;;)
		sink = once(argv[1]);
}
