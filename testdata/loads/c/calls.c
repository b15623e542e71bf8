/* calls: as many system calls as there is time for, on all CPUs: of those that do next to nothing, reading of 64 zeros. */
#include "throughput.h"

#include <fcntl.h>

static int zeros = -1;

static void work(void)
{
	char buffer[64];
	if (zeros < 0)
		zeros = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	for (int i = 0; i < 200; i++)
		if (read(zeros, buffer, sizeof buffer) != sizeof buffer)
			_exit(1);
}

int main(int argc, char **argv)
{
	return measure("calls", argc, argv);
}
