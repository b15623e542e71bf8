/*
 * ending: computes until it is sent SIGTERM, and ends then, with much memory for the kernel to take back. Writes a byte
 * when it computes.
 */
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FUNCTION __attribute__((noipa)) static
#define BYTES (64UL << 20)

static volatile sig_atomic_t ended;
static volatile unsigned long sink;

static void end(int number)
{
	ended = number;
}

FUNCTION void spin(void)
{
	while (!ended)
		sink = sink * 31 + 1;
}

FUNCTION int leave(void)
{
	_exit(0);
}

int main(void)
{
	char *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED || madvise(memory, BYTES, MADV_NOHUGEPAGE))
		return 1;
	memset(memory, 1, BYTES);
	if (signal(SIGTERM, end) == SIG_ERR || write(1, "x", 1) != 1)
		return 1;
	spin();
	return leave() + memory[0];
}
