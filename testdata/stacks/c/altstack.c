/*
 * altstack: a timer's signal handler burns CPU on a stack of its own, while the function that it interrupted is
 * some calls deep on the ordinary one and between any two of its instructions: prologues and epilogues too.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <sys/time.h>

#include "work.h"

static volatile uint64_t sink;

FUNCTION uint64_t handler_leaf(uint64_t x)
{
	volatile uint64_t frame[24];
	for (int i = 0; i < 24; i++)
		frame[i] = x;
	return scramble(frame[7], 20000);
}

FUNCTION uint64_t handler_middle(uint64_t x)
{
	volatile uint64_t frame[5] = { x };
	return handler_leaf(frame[0]) + frame[0];
}

static void on_alarm(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)info, (void)context;
	for (int i = 0; i < 20; i++)
		sink = handler_middle(sink) + 1;
}

FUNCTION uint64_t small(uint64_t a, uint64_t b)
{
	volatile uint64_t frame[3] = { a, b };
	return frame[0] * frame[1] + 1;
}

FUNCTION uint64_t descend(int depth, uint64_t x)
{
	volatile uint64_t frame[9] = { x };
	if (depth == 0)
		return small(x, frame[0]);
	return descend(depth - 1, frame[0] + 1) ^ small(x, frame[0]);
}

int main(void)
{
	static char stack[256 << 10];
	stack_t alternate = { .ss_sp = stack, .ss_size = sizeof stack };
	struct sigaction action = { .sa_sigaction = on_alarm, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART };
	struct itimerval every = { { 0, 2000 }, { 0, 2000 } };
	if (sigaltstack(&alternate, NULL) || sigaction(SIGALRM, &action, NULL) || setitimer(ITIMER_REAL, &every, NULL)) {
		perror("altstack");
		return 1;
	}
	say("altstack", 2);
	for (;;)
		sink = descend(20, sink);
}
