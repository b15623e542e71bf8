/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * What the sampler and user space share: the sample record, the outcomes, the
 * counters. bpf2go makes the Go twins of these types.
 */
#ifndef PILOTLIGHT_SAMPLER_H
#define PILOTLIGHT_SAMPLER_H

/* The kernel's own limit on a kernel stack is kernel.perf_event_max_stack, 127 by default. */
#define MAX_KERNEL_FRAMES 128
#define MAX_USER_FRAMES 896
#define MAX_FRAMES (MAX_KERNEL_FRAMES + MAX_USER_FRAMES)

/* How the walk of one sample ended. User space counts on top of these what it finds out later. */
enum outcome {
	OUTCOME_COMPLETE,     /* the last frame is the thread's entry */
	OUTCOME_KERNEL_ONLY,  /* a kernel thread: there is no user stack */
	OUTCOME_NO_MAPPING,   /* a pc lies in no executable mapping of its process */
	OUTCOME_NO_TABLE,     /* the code keeps no frame pointer and no unwind table is loaded for it */
	OUTCOME_BAD_RULE,     /* the table says: this place cannot be unwound */
	OUTCOME_UNREADABLE,   /* stack memory is not resident */
	OUTCOME_JIT_END,      /* stopped in anonymous code */
	OUTCOME_TOO_DEEP,     /* more than MAX_USER_FRAMES */
	OUTCOME_DROPPED_RING, /* the ring was full: nothing of the sample is left */
	OUTCOME_DROPPED_USER, /* user space took the sample and had to let it go */
	OUTCOME_COUNT,
};

/*
 * A sample on the ring, followed by u64 kernel_frames[], u64 user_frames[]
 * (both leaf first), u64 registers[] and u8 stack[]. All of it is u64-aligned.
 */
struct sample_header {
	u64 time;          /* CLOCK_MONOTONIC, ns */
	u64 process_start; /* start of the process (its group leader), ns since boot */
	u32 pid;           /* what user space calls pid: the kernel's tgid */
	u32 tid;
	u32 cpu;
	u32 exec_id;       /* how often the process, its ancestors included, has called exec */
	u16 kernel_frames;
	u16 user_frames;
	u16 registers;     /* u64s that follow the frames; 0 unless user space is to finish the walk */
	u16 stack_bytes;   /* bytes of user stack that follow those, from the stack pointer up */
	enum outcome outcome;
	u32 flags;         /* SAMPLE_* */
	u8 comm[16];     /* of the process */
	u8 thread[16];   /* comm of the thread */
};
_Static_assert(sizeof(struct sample_header) == 80, "the Go decoder reads this layout");

/* The sample interrupted kernel code; without it the first frame is the interrupted user instruction. */
#define SAMPLE_IN_KERNEL 1

/* One per CPU, written by the program only. */
struct counters {
	u64 taken; /* calls of the program */
	u64 outcomes[OUTCOME_COUNT];
	u64 run_ns; /* time spent inside the program */
};
_Static_assert(sizeof(struct counters) == (2 + OUTCOME_COUNT) * 8, "no padding");

#endif
