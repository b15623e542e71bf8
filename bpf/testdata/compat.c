/* compat: a 32-bit program without a library that computes for ever five calls deep. Writes a byte when it is there. */
#define FUNCTION __attribute__((noipa)) static

static volatile unsigned long sink;

FUNCTION void spin(void)
{
	int result = 4; /* write */
	__asm__ volatile("int $0x80" : "+a"(result) : "b"(1), "c"("x"), "d"(1) : "memory");
	while (result == 1)
		sink = sink * 31 + 1;
}

FUNCTION void descend(int n)
{
	if (n > 0)
		descend(n - 1);
	else
		spin();
	sink++;
}

__attribute__((used)) static void entry(void)
{
	descend(4);
	sink++;
}

__asm__(".globl _start\n"
	".type _start, @function\n"
	"_start: xorl %ebp, %ebp\n"
	"call entry\n"
	"hlt\n"
	".size _start, . - _start\n");
