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
	OUTCOME_KERNEL_ONLY,  /* there is no user stack: a kernel thread, a task in exec, when the old program is gone and the next not yet there, or one at its end whose stack was not kept */
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
 * (both leaf first, and all but the leaf as return addresses), u64 registers[]
 * and u8 stack[]. All of it is u64-aligned.
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
/* The last user frame is the instruction that comes next, not a return address: the leaf, or what a signal interrupted. */
#define SAMPLE_EXACT_PC 2

#define STACK_BYTES 16384 /* of user stack that a sample carries at most */

/*
 * Tables and the mappings of processes lie in shards of words. A position is
 * shard << 16 | word; what is addressed by one position lies within one shard.
 */
#define SHARD_WORDS (1 << 16)
#define MAX_SHARDS 256
#define MAX_RULES 16384
#define MAX_PROCESSES 16384
#define MAPPING_STEPS 12 /* a search halves what is left in each step */
#define MAX_MAPPINGS (1 << MAPPING_STEPS)

/* How a rule's CFA is computed, and where a register of the caller is: package unwind has the same, and the meaning. */
enum cfa_kind {
	CFA_INVALID,
	CFA_REGISTER,
	CFA_DEREF,
	CFA_DEREF_INDEX,
	CFA_PLT,
	CFA_SIGNAL,
	CFA_FRAME_POINTER,
	CFA_END,
};
enum save_kind {
	SAVE_SAME,
	SAVE_AT_CFA,
	SAVE_AT_FP,
	SAVE_AT_SP,
	SAVE_REGISTER,
	SAVE_UNDEFINED,
};

/* unwind.Rule */
struct rule {
	s32 cfa_offset;
	s16 fp_offset;
	s16 rbx_offset;
	s16 ra_offset;
	u8 cfa;
	u8 cfa_register;
	s8 cfa_add;
	u8 fp;
	u8 rbx;
	u8 ra;
};
_Static_assert(sizeof(struct rule) == 16, "user space writes this layout");

enum code_kind {
	CODE_UNKNOWN,             /* its table is not there yet: user space is to finish the walk */
	CODE_TABLE,               /* has an unwind table */
	CODE_FRAME_POINTER,       /* keeps frame pointers */
	CODE_FRAME_POINTER_TABLE, /* keeps frame pointers where its table has no other rule */
	CODE_KEPT,                /* the same, and each return address finds a frame record of its own function at the frame pointer */
	CODE_JIT,                 /* anonymous */
	CODE_NONE,                /* a part of a file that its table says is no code */
	CODE_JIT_FRAME_POINTER,   /* anonymous, and keeps frame pointers */
};

/* A published process, followed by its mappings in ascending order; at an even position. */
struct process {
	u64 start; /* these three as in sample_header */
	u32 pid;
	u32 exec_id;
	u32 mappings;
	u32 reserved[3];
};
_Static_assert(sizeof(struct process) == 32, "the mappings follow it");

/*
 * A range of code in a process. Its page directory has a word pair for each
 * page from base on: the position of the page's rows and their number. A row is
 * a word: offset in the page, rule << 16; it holds until the next one. The
 * first row of a page has the offset 0.
 */
struct mapping {
	u64 start, end;
	u64 base;      /* the pc of the first page of the directory */
	u32 directory; /* position, even; of code with a table */
	enum code_kind kind;
};
_Static_assert(sizeof(struct mapping) == 32, "user space writes this layout");

/* One per CPU, written by the programs only. */
struct counters {
	u64 taken; /* calls of the program */
	u64 outcomes[OUTCOME_COUNT];
	u64 run_ns;  /* time spent inside the program */
	u64 exit_ns; /* and inside the one that is called when a task ends, which the first may interrupt */
};
_Static_assert(sizeof(struct counters) == (3 + OUTCOME_COUNT) * 8, "no padding");

#endif
