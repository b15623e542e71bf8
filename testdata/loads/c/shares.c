/*
 * shares: known CPU shares in named functions, in C with frame pointers.
 *
 *   main > serve > handle_request > parse    10 %: itself 4, checksum  6
 *                                 > compute  60 %: hash  40, sort     20
 *                                 > encode   30 %: itself 12, checksum 18
 *
 * The shares are not hoped for from loop counts. After each slice of work the thread's CPU clock is read, the
 * slice is credited to the stack that ran, and the next slice goes to the stack that is furthest behind its
 * share. So the shares hold to within one slice (about 1 ms) whatever the machine, and what is printed at
 * the end is what was measured. The length of a slice is random, lest the pattern beat with a sampler.
 *
 * noipa keeps each function a function under its own name: not inlined, cloned, or merged.
 */
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"

#define FUNCTION __attribute__((noipa)) static

enum slot { PARSE, PARSE_CHECKSUM, HASH, SORT, ENCODE, ENCODE_CHECKSUM, SLOTS };

static const struct {
	int percent;
	const char *stack; /* below serve and handle_request, as JSON strings, root first */
} slots[SLOTS] = {
	[PARSE] = { 4, "\"parse\"" },
	[PARSE_CHECKSUM] = { 6, "\"parse\",\"checksum\"" },
	[HASH] = { 40, "\"compute\",\"hash\"" },
	[SORT] = { 20, "\"compute\",\"sort\"" },
	[ENCODE] = { 12, "\"encode\"" },
	[ENCODE_CHECKSUM] = { 18, "\"encode\",\"checksum\"" },
};

static char request[256];

/*
 * Each function does n cheap steps and returns something that depends on all of them. Leaves work on a copy of
 * the request, because GCC gives a leaf without locals in memory no frame whatever the flags say, and a walk
 * along frame pointers would lose the leaf's caller.
 */

FUNCTION uint64_t checksum(uint64_t n)
{
	char frame[sizeof request];
	memcpy(frame, request, sizeof frame);
	uint64_t a = 1, b = 0;
	for (uint64_t i = 0; i < n; i++) {
		a += (unsigned char)frame[i % sizeof frame];
		b ^= a << 1;
	}
	return a ^ b;
}

FUNCTION uint64_t parse(enum slot slot, uint64_t n)
{
	if (slot == PARSE_CHECKSUM)
		return checksum(n);
	uint64_t fields = 0, value = 0;
	for (uint64_t i = 0; i < n; i++) {
		char c = request[i % sizeof request];
		if (c == ' ')
			fields++;
		else
			value = value * 10 + (uint64_t)(c - '0');
	}
	return fields + value;
}

FUNCTION uint64_t hash(uint64_t n)
{
	char frame[sizeof request];
	memcpy(frame, request, sizeof frame);
	uint64_t h = 14695981039346656037u;
	for (uint64_t i = 0; i < n; i++)
		h = (h ^ (unsigned char)frame[i % sizeof frame]) * 1099511628211u;
	return h;
}

FUNCTION uint64_t sort(uint64_t n)
{
	uint32_t values[64];
	uint32_t seed = (uint32_t)n;
	uint64_t steps = 0;
	while (steps < n) {
		for (int i = 0; i < 64; i++)
			values[i] = seed = seed * 1664525 + 1013904223;
		for (int i = 1; i < 64; i++) {
			uint32_t v = values[i];
			int j = i;
			for (; j > 0 && values[j - 1] > v; j--, steps++)
				values[j] = values[j - 1];
			values[j] = v;
		}
	}
	return values[0];
}

FUNCTION uint64_t compute(enum slot slot, uint64_t n)
{
	return slot == HASH ? hash(n) : sort(n);
}

FUNCTION uint64_t encode(enum slot slot, uint64_t n)
{
	if (slot == ENCODE_CHECKSUM)
		return checksum(n);
	static char out[256];
	uint64_t bits = 0;
	for (uint64_t i = 0; i < n; i++) {
		bits = bits << 6 | (unsigned char)request[i % sizeof request];
		out[i % sizeof out] = (char)('A' + bits % 61);
	}
	return bits ^ (unsigned char)out[n % sizeof out];
}

FUNCTION uint64_t handle_request(enum slot slot, uint64_t n)
{
	switch (slot) {
	case PARSE:
	case PARSE_CHECKSUM:
		return parse(slot, n);
	case HASH:
	case SORT:
		return compute(slot, n);
	default:
		return encode(slot, n);
	}
}

static volatile uint64_t sink;

FUNCTION uint64_t serve(int64_t duration, int64_t spent[SLOTS])
{
	int64_t total = 0;
	uint64_t iterations = 0;
	uint32_t random = 1;
	int64_t deadline = clock_ns(CLOCK_MONOTONIC) + duration;
	int64_t last = clock_ns(CLOCK_THREAD_CPUTIME_ID);
	do {
		enum slot next = 0;
		int64_t most = INT64_MIN;
		for (enum slot s = 0; s < SLOTS; s++) {
			int64_t behind = total * slots[s].percent - spent[s] * 100;
			if (behind > most) {
				most = behind;
				next = s;
			}
		}
		random = random * 1664525 + 1013904223;
		sink = handle_request(next, 300000 + random % 600000);
		int64_t now = clock_ns(CLOCK_THREAD_CPUTIME_ID);
		spent[next] += now - last;
		total += now - last;
		last = now;
		iterations++;
	} while (clock_ns(CLOCK_MONOTONIC) < deadline);
	return iterations;
}

int main(int argc, char **argv)
{
	int64_t duration = duration_arg(argc, argv);
	for (size_t i = 0; i < sizeof request; i++)
		request[i] = i % 7 == 6 ? ' ' : (char)('0' + i % 10);

	int64_t spent[SLOTS] = { 0 };
	int64_t start = clock_ns(CLOCK_MONOTONIC);
	uint64_t iterations = serve(duration, spent);
	int64_t elapsed = clock_ns(CLOCK_MONOTONIC) - start;

	printf("{\"program\":\"shares-c\",\"pid\":%d,\"seconds\":%.3f,\"iterations\":%" PRIu64 ",\"stacks\":[",
	       getpid(), (double)elapsed / 1e9, iterations);
	for (enum slot s = 0; s < SLOTS; s++)
		printf("%s{\"functions\":[\"main\",\"serve\",\"handle_request\",%s],\"percent\":%d,\"cpu_ns\":%" PRId64 "}",
		       s ? "," : "", slots[s].stack, slots[s].percent, spent[s]);
	printf("]}\n");
}
