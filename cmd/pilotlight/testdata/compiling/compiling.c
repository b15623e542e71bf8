/* compiling writes code into anonymous memory, as a compiler at run time does, runs it, and says where it is in
 * perf-PID.map. The code keeps frame pointers: outer calls inner, which counts down. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const uint8_t inner[] = {
	0x55,                                     /* push %rbp */
	0x48, 0x89, 0xe5,                         /* mov %rsp, %rbp */
	0x48, 0xc7, 0xc1, 0x00, 0x00, 0x00, 0x10, /* mov $0x10000000, %rcx */
	0x48, 0xff, 0xc9,                         /* dec %rcx */
	0x75, 0xfb,                               /* jnz to dec */
	0x5d,                                     /* pop %rbp */
	0xc3,                                     /* ret */
};

static const uint8_t outer[] = {
	0x55,             /* push %rbp */
	0x48, 0x89, 0xe5, /* mov %rsp, %rbp */
	0xff, 0xd7,       /* call *%rdi */
	0x5d,             /* pop %rbp */
	0xc3,             /* ret */
};

int main(void)
{
	uint8_t *code = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (code == MAP_FAILED)
		return 1;
	memcpy(code, inner, sizeof(inner));
	memcpy(code + 64, outer, sizeof(outer));
	if (mprotect(code, 4096, PROT_READ | PROT_EXEC))
		return 1;

	char path[64];
	snprintf(path, sizeof(path), "/tmp/perf-%d.map", getpid());
	FILE *map = fopen(path, "w");
	if (!map)
		return 1;
	fprintf(map, "%lx %zx compiled_inner\n%lx %zx py::outer:/src/outer.py\n", (unsigned long)code, sizeof(inner),
		(unsigned long)(code + 64), sizeof(outer));
	fclose(map);

	void (*run)(void *) = (void (*)(void *))(code + 64);
	for (;;)
		run(code);
}
