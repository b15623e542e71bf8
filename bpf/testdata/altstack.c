/*
 * altstack: handles a fault on a stack of its own, for ever. What faults is the first instruction of a function, behind
 * one whose unwind information would lead astray. Writes a byte when it is there.
 */
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define FUNCTION __attribute__((noipa)) static

static volatile unsigned long sink;

FUNCTION void spin(void)
{
	if (write(1, "x", 1) != 1)
		exit(1);
	for (;;)
		sink = sink * 31 + 1;
}

FUNCTION void handler(int number)
{
	spin();
	sink = (unsigned long)number;
}

void fault(void *p);
__asm__(".text\n"
	"before: .cfi_startproc\n"
	".cfi_def_cfa_offset 4096\n"
	"nop\n"
	".cfi_endproc\n"
	".type fault, @function\n"
	"fault: .cfi_startproc\n"
	"movl $0, (%rdi)\n"
	"ret\n"
	".cfi_endproc\n"
	".size fault, . - fault\n");

FUNCTION void work(void)
{
	fault(0);
	sink++;
}

int main(void)
{
	stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
	struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
	if (sigaltstack(&stack, 0) || sigaction(SIGSEGV, &action, 0))
		return 1;
	work();
	return 0;
}
