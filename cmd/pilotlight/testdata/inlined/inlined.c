/* inlined spends its time in a function that is inlined into one that is inlined into one that is not. */

static inline __attribute__((always_inline)) unsigned long mix(unsigned long x)
{
	for (int i = 0; i < 64; i++)
		x = (x ^ (x >> 7)) * 0x9e3779b97f4a7c15UL; /* line 6 */
	return x;
}

static inline __attribute__((always_inline)) unsigned long round_of(unsigned long x)
{
	return mix(x) + mix(~x); /* line 12 */
}

__attribute__((noinline)) unsigned long work(unsigned long x)
{
	for (int i = 0; i < 1000000; i++)
		x += round_of(x); /* line 18 */
	return x;
}

int main(void)
{
	volatile unsigned long x = 1;
	for (;;)
		x = work(x);
}
