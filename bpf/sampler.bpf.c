//go:build ignore

// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only)
/*
 * The sampler: one program on one perf event per CPU. Each call takes the
 * stack of what the event interrupted and writes it to that CPU's ring.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include "sampler.h"
#include "walk.h"

#define NSEC_PER_SEC 1000000000ULL

#if defined(__TARGET_ARCH_x86)
#define REGS_USER_MODE(r) (((r)->cs & 3) != 0)
#else
#define REGS_USER_MODE(r) (((r)->pstate & 0xf) == 0) /* PSR_MODE_EL0t */
#endif

/*
 * key: CPU; value: that CPU's ring, written by the program, drained by user
 * space. One ring per CPU, because a shared one is a contended lock. Sizes of
 * both levels are set when the program is loaded.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(u32));
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_RINGBUF);
		__uint(max_entries, 4096);
	});
} rings SEC(".maps");

/* key: 0; value: working memory of one sample. One is enough: the kernel never nests perf event programs on a CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

/* key: 0; value: what happened on each CPU, read by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct counters);
} counts SEC(".maps");

/* Of the user stack of a task that ends, from the stack pointer up: what leads to the call of exit is far less. */
#define EXIT_STACK_BYTES 1024
/* owner of an exit_stack that is being written; no thread has this id. */
#define WRITING (~0U)

/* The user side of a task that has begun to end, as it was before its memory was given back. */
struct exit_stack {
	u32 owner; /* the thread's id */
	u32 bytes; /* of stack */
	u64 start; /* of the thread, ns since boot: ids come again */
	u64 registers[NUM_REGISTERS];
	u64 stack[EXIT_STACK_BYTES / 8];
};

/*
 * key: a thread's id modulo the number of entries, a power of two; value: written when the thread ends, read by samples
 * of what the kernel then does for it. Few threads end at the same time, and one that is overwritten is only lost. The
 * number is set when the program is loaded.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 64);
	__type(key, u32);
	__type(value, struct exit_stack);
} exit_stacks SEC(".maps");

const volatile u32 exit_stacks_mask = 63;

/* A ring that holds this many bytes before a sample wakes its reader; below it the reader's timer suffices. */
const volatile u64 wake_at_bytes = 1 << 17;
/* The reader has no timer for now: samples of which it has something to do at once wake it. Set by user space. */
volatile bool reader_rests = false;
/* A ring holding more than this many bytes takes no more pieces of stack. */
const volatile u64 ship_below_bytes = 3 << 16;
/* Bytes of user stack that the samples of one CPU carry in a second at most. */
const volatile u64 ship_bytes_per_second = 2 << 20;

/*
 * may_ship tells whether a sample may carry a piece of stack: there is a limit to the bytes of a second, and samples
 * that come without are not to find the ring full of such pieces.
 */
static __always_inline bool may_ship(struct scratch *s, void *ring, u64 now)
{
	if (bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) > ship_below_bytes)
		return false;
	if (now - s->shipping_since >= NSEC_PER_SEC) {
		s->shipping_since = now;
		s->shipped_bytes = 0;
	}
	return s->shipped_bytes + STACK_BYTES <= ship_bytes_per_second;
}

/*
 * append_stack adds the user's stack from the stack pointer up to the words of a sample, at, and returns how many bytes
 * that are. Pages are read one by one, because what follows the last one of a stack may be nothing.
 */
static __always_inline u64 append_stack(struct scratch *s, u64 *at)
{
	u64 addr = s->walk.registers[REGISTER_SP];
	u64 bytes = 0;

	for (int i = 0; i <= STACK_BYTES / PAGE_BYTES; i++) {
		u64 len = PAGE_BYTES - (addr & (PAGE_BYTES - 1));
		if (bytes > STACK_BYTES) /* never so, but the verifier adds up the largest values that there could be */
			bytes = STACK_BYTES;
		if (len > STACK_BYTES - bytes)
			len = STACK_BYTES - bytes;
		asm volatile("" : "+r"(len)); /* clang knows the next line to be needless, the verifier of Linux 6.1 does not */
		if (len > PAGE_BYTES)
			len = PAGE_BYTES;
		if (bpf_probe_read_user((u8 *)at + bytes, len, (void *)addr))
			break;
		bytes += len;
		addr += len;
	}
	return bytes;
}

/* append adds to the frames what goes along with them, and returns how many words of the sample there are then. */
static __always_inline u64 append(struct scratch *s)
{
	struct sample_header *h = &s->header;
	struct walk *w = &s->walk;
	u64 words = h->kernel_frames + h->user_frames; /* not u32: Linux 6.1 forgets the bounds of those it puts on the stack */

	if (words > MAX_FRAMES) /* never so, but sums of two counts are more than the verifier follows */
		words = MAX_FRAMES;
	if (w->unfinished) {
		h->registers = NUM_REGISTERS;
		if (w->exact)
			h->flags |= SAMPLE_EXACT_PC;
		for (int i = 0; i < NUM_REGISTERS; i++)
			s->words[words + i] = w->registers[i];
		words += NUM_REGISTERS;
		h->stack_bytes = append_stack(s, &s->words[words]);
		s->shipped_bytes += h->stack_bytes;
	} else if (w->top_words) {
		for (int i = 0; i < TOP_WORDS; i++)
			s->words[words + i] = w->top[i];
		h->stack_bytes = TOP_WORDS * 8;
	} else if (h->registers) { /* take_exit_stack has put them there, and the stack */
		words += NUM_REGISTERS;
	}
	words += (h->stack_bytes + 7) / 8;
	return words < MAX_WORDS ? words : MAX_WORDS; /* as above */
}

/* identify says in the header whose sample it is. */
static __always_inline void identify(struct sample_header *h, struct task_struct *task)
{
	struct task_struct *leader = task->group_leader;

	h->process_start = leader->start_boottime;
	h->pid = task->tgid;
	h->tid = task->pid;
	h->exec_id = leader->self_exec_id;
	__builtin_memcpy(h->comm, leader->comm, sizeof(h->comm));
	__builtin_memcpy(h->thread, task->comm, sizeof(h->thread));
}

/*
 * is_in_exec tells whether a task in the kernel has given up one program and not yet become the next: its registers are
 * those of the old one, whose memory is gone. load_elf_binary (fs/binfmt_elf.c) says last where the new one's code is,
 * just before it sets the registers.
 */
static __always_inline bool is_in_exec(struct task_struct *task)
{
	return task->mm->start_code == 0;
}

/* exit_stack_of returns where the user side of a task is kept when it ends. */
static __always_inline struct exit_stack *exit_stack_of(struct task_struct *task)
{
	u32 i = task->pid & exit_stacks_mask;
	return bpf_map_lookup_elem(&exit_stacks, &i);
}

/*
 * take_exit_stack has user space walk the stack from which a task without memory has ended, and reports whether that was
 * kept.
 */
static __always_inline bool take_exit_stack(struct scratch *s, struct task_struct *task)
{
	struct sample_header *h = &s->header;
	struct exit_stack *e = exit_stack_of(task);
	u32 tid = task->pid;
	u64 at = h->kernel_frames;

	if (!e || *(volatile u32 *)&e->owner != tid || e->start != task->start_boottime)
		return false;
	if (IS_COMPAT(e->registers)) /* user space walks 64-bit stacks only */
		return false;
	if (at > MAX_KERNEL_FRAMES) /* never so, but the verifier does not know */
		at = MAX_KERNEL_FRAMES;
	s->words[at] = e->registers[REGISTER_PC];
	__builtin_memcpy(&s->words[at + 1], e->registers, sizeof(e->registers));
	bpf_probe_read_kernel(&s->words[at + 1 + NUM_REGISTERS], sizeof(e->stack), e->stack);
	u32 bytes = e->bytes;
	if (__sync_fetch_and_add(&e->owner, 0) != tid) /* another task has ended meanwhile; as a barrier, not a load */
		return false;
	h->user_frames = 1;
	h->registers = NUM_REGISTERS;
	h->stack_bytes = bytes <= EXIT_STACK_BYTES ? bytes : EXIT_STACK_BYTES;
	h->flags |= SAMPLE_EXACT_PC;
	h->outcome = OUTCOME_NO_MAPPING;
	s->shipped_bytes += h->stack_bytes;
	return true;
}

/* walk takes both stacks of a task that the event interrupted. */
static __always_inline void walk(struct bpf_perf_event_data *ctx, struct scratch *s, struct task_struct *task, bool ship)
{
	struct sample_header *h = &s->header;

	h->kernel_frames = 0;
	h->user_frames = 0;
	h->registers = 0;
	h->stack_bytes = 0;
	h->flags = 0;
	s->walk.unfinished = false;
	s->walk.top_words = 0;
	if (!REGS_USER_MODE(&ctx->regs)) {
		h->flags = SAMPLE_IN_KERNEL;
		long n = bpf_get_stack(ctx, s->words, MAX_KERNEL_FRAMES * 8, 0);
		if (n > 0)
			h->kernel_frames = n / 8;
		if (!task->mm && ship && take_exit_stack(s, task))
			return;
		if (!task->mm || task->flags & (PF_KTHREAD | PF_IO_WORKER | PF_USER_WORKER) || is_in_exec(task)) {
			h->outcome = OUTCOME_KERNEL_ONLY;
			return;
		}
	}
	/* The entry from user mode left them there, whichever mode the event interrupted. */
	bpf_probe_read_kernel(s->walk.registers, sizeof(s->walk.registers), (void *)bpf_task_pt_regs(task));
	walk_user(s, ship);
}

/*
 * is_urgent tells whether the reader is to look at a process before it is gone: it does not know it yet, or has no table
 * for its code. All else can wait.
 */
static __always_inline bool is_urgent(struct sample_header *h)
{
	return h->outcome == OUTCOME_NO_MAPPING || h->outcome == OUTCOME_NO_TABLE;
}

/* output writes the sample to the ring and returns its outcome. */
static __always_inline u32 output(void *ring, struct scratch *s)
{
	u64 words = append(s);
	bool wake = bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) >= wake_at_bytes || (reader_rests && is_urgent(&s->header));

	if (bpf_ringbuf_output(ring, s, sizeof(s->header) + words * 8, wake ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP))
		return OUTCOME_DROPPED_RING;
	return s->header.outcome;
}

SEC("perf_event")
int sample(struct bpf_perf_event_data *ctx)
{
	u64 start = bpf_ktime_get_ns();
	u32 zero = 0, cpu = bpf_get_smp_processor_id();
	struct counters *c = bpf_map_lookup_elem(&counts, &zero);
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);
	if (!c || !s)
		return 0; /* cannot be: both maps have the key 0 */
	c->taken++;

	u32 outcome = OUTCOME_DROPPED_RING;
	void *ring = bpf_map_lookup_elem(&rings, &cpu);
	if (ring) {
		struct task_struct *task = bpf_get_current_task_btf();
		s->header.time = start;
		s->header.cpu = cpu;
		identify(&s->header, task);
		walk(ctx, s, task, may_ship(s, ring, start));
		outcome = output(ring, s);
	}
	if (outcome < OUTCOME_COUNT)
		c->outcomes[outcome]++;
	c->run_ns += bpf_ktime_get_ns() - start;
	return 0;
}

/*
 * keep_exit_stack keeps the user side of a task that ends. Linux calls it when the task still has its memory; before 6.16
 * it did so afterwards, and there is nothing to keep.
 */
SEC("raw_tp/sched_process_exit")
int keep_exit_stack(void *ctx)
{
	u64 start = bpf_ktime_get_ns();
	u32 zero = 0;
	struct task_struct *task = bpf_get_current_task_btf();
	struct exit_stack *e = exit_stack_of(task);
	struct counters *c = bpf_map_lookup_elem(&counts, &zero);

	if (!task->mm || !e || !c)
		return 0;
	if (__sync_lock_test_and_set(&e->owner, WRITING) == WRITING)
		return 0; /* by another CPU, which will say whose it is */
	bpf_probe_read_kernel(e->registers, sizeof(e->registers), (void *)bpf_task_pt_regs(task));
	u64 sp = e->registers[REGISTER_SP];
	u32 len = sizeof(e->stack);
	if (bpf_probe_read_user(e->stack, len, (void *)sp)) {
		len = PAGE_BYTES - (sp & (PAGE_BYTES - 1));
		if (len > sizeof(e->stack) || bpf_probe_read_user(e->stack, len, (void *)sp))
			len = 0;
	}
	e->bytes = len;
	e->start = task->start_boottime;
	__sync_lock_test_and_set(&e->owner, task->pid);
	c->exit_ns += bpf_ktime_get_ns() - start;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
