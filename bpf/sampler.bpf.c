//go:build ignore

// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only)
/*
 * The sampler: one program on one perf event per CPU. Each call takes the
 * stack of what the event interrupted and writes it to that CPU's ring.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include "sampler.h"

/*
 * A step looks at the stack through a window of this many bytes (a power of
 * two): a call of bpf_probe_read_user costs far more than the bytes it copies,
 * and most frames are small, so one call serves several frames.
 */
#define WINDOW_BYTES 1024
#define WINDOW_WORDS (WINDOW_BYTES / 8)
#define TOP_WORDS 2 /* taken along with each sample; the first is where a call leaves its return address */
#define PAGE_BYTES 4096 /* the smallest page there is: what lies within one is resident or not as a whole */
/* A frame pointer further than this above the last frame is some other value in that register. */
#define MAX_FRAME_BYTES (8ULL << 20)

#if defined(__TARGET_ARCH_x86)
#define REGS_PC(r) ((r)->rip)
#define REGS_SP(r) ((r)->rsp)
#define REGS_FP(r) ((r)->rbp)
#define REGS_LR(r) 0
#define HAS_LINK_REGISTER 0
#define REGS_USER_MODE(r) (((r)->cs & 3) != 0)
#define RETURN_PC(ra) (ra)
#define LOWEST_FP(sp) (sp)
typedef struct pt_regs task_regs;
#else
#define REGS_PC(r) ((r)->pc)
#define REGS_SP(r) ((r)->sp)
#define REGS_FP(r) ((r)->regs[29])
#define REGS_LR(r) ((r)->regs[30])
#define HAS_LINK_REGISTER 1
#define REGS_USER_MODE(r) (((r)->pstate & 0xf) == 0) /* PSR_MODE_EL0t */
/* Saved return addresses may be signed in the bits above the address (pointer authentication). */
#define RETURN_PC(ra) ((ra) & ((1ULL << 48) - 1))
/* Go keeps the frame record one word below the stack pointer. */
#define LOWEST_FP(sp) ((sp) - 8)
typedef struct user_pt_regs task_regs;
#endif

/* Per CPU working memory: too large for the BPF stack. */
struct scratch {
	struct sample_header header;
	u64 words[MAX_FRAMES + TOP_WORDS]; /* the frames, then walk.top */
	u64 window[WINDOW_WORDS];
};

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

/* A ring holding more than this many bytes wakes its reader; below it the reader's timer suffices. */
const volatile u64 wake_at_bytes = 1 << 17;

/* A walk up one user stack: where it stands and the part of the stack it holds. */
struct walk {
	struct scratch *scratch;
	u64 pc;
	u64 sp; /* the walk only goes up from here */
	u64 fp;
	u64 lr;
	u64 window_start;
	u64 window_len;
	u64 top[TOP_WORDS];
	u32 top_words;
	u32 kernel_frames;
	u32 user_frames;
	u32 outcome;
};

/* load_pair reads the two words at addr of the user's stack. */
static __always_inline long load_pair(struct walk *w, u64 addr, u64 *first, u64 *second)
{
	struct scratch *s = w->scratch;
	u64 offset = addr - w->window_start;

	if (offset + 16 > w->window_len || offset > w->window_len) {
		u64 len = PAGE_BYTES - (addr & (PAGE_BYTES - 1));
		if (len > WINDOW_BYTES)
			len = WINDOW_BYTES;
		if (len < 16) { /* the pair straddles two pages */
			u64 pair[2];
			if (bpf_probe_read_user(pair, sizeof(pair), (void *)addr))
				return -1;
			*first = pair[0];
			*second = pair[1];
			return 0;
		}
		if (bpf_probe_read_user(s->window, len, (void *)addr))
			return -1;
		w->window_start = addr;
		w->window_len = len;
		offset = 0;
	}
	/* The masks tell the verifier what window_len has said already. */
	u32 i = (offset >> 3) & (WINDOW_WORDS - 1);
	*first = s->window[i];
	*second = s->window[(i + 1) & (WINDOW_WORDS - 1)];
	return 0;
}

/*
 * step goes from one frame to its caller and returns OUTCOME_COUNT while there
 * may be more. A frame record is {caller's frame pointer, return address}; the
 * ABI marks the outermost one by a frame pointer of zero.
 */
static __always_inline u32 step(struct walk *w)
{
	u64 fp, ra;

	if (w->fp == 0)
		return w->user_frames > 1 ? OUTCOME_COMPLETE : OUTCOME_NO_TABLE;
	if (w->fp < w->sp || (w->fp & 7) || w->fp - w->sp > MAX_FRAME_BYTES)
		return OUTCOME_NO_TABLE;
	if (load_pair(w, w->fp, &fp, &ra))
		return OUTCOME_UNREADABLE;
	if (ra == 0)
		return fp == 0 ? OUTCOME_COMPLETE : OUTCOME_NO_TABLE;
	w->pc = RETURN_PC(ra);
	w->sp = w->fp + 16;
	w->fp = fp;
	return OUTCOME_COUNT;
}

static long walk_frame(u32 i, struct walk *w)
{
	u32 at = w->kernel_frames + w->user_frames;

	if (at < MAX_FRAMES) /* always so, but sums of two counts are more than the verifier follows */
		w->scratch->words[at] = w->pc;
	w->user_frames++;
	w->outcome = step(w);
	return w->outcome != OUTCOME_COUNT;
}

/*
 * walk_user walks from w->pc, w->sp and w->fp to the thread's entry. Where the
 * leaf has no frame of its own, as leaf functions in Go, its caller is missing
 * from the chain of frame records: the place of a return address then goes
 * along.
 */
static __always_inline void walk_user(struct walk *w)
{
	if (HAS_LINK_REGISTER) {
		w->top[0] = RETURN_PC(w->lr);
		w->top_words = TOP_WORDS;
	} else if (!(w->sp & 7) && !load_pair(w, w->sp, &w->top[0], &w->top[1])) {
		w->top_words = TOP_WORDS;
	}
	w->sp = LOWEST_FP(w->sp);
	bpf_loop(MAX_USER_FRAMES, walk_frame, w, 0);
	if (w->outcome == OUTCOME_COUNT)
		w->outcome = OUTCOME_TOO_DEEP;
}

SEC("perf_event")
int sample(struct bpf_perf_event_data *ctx)
{
	u64 start = bpf_ktime_get_ns();
	u32 zero = 0;
	struct counters *c = bpf_map_lookup_elem(&counts, &zero);
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);
	if (!c || !s)
		return 0; /* cannot be: both maps have the key 0 */
	c->taken++;

	struct task_struct *task = bpf_get_current_task_btf();
	struct task_struct *leader = task->group_leader;
	struct sample_header *h = &s->header;
	u32 cpu = bpf_get_smp_processor_id();
	h->time = start;
	h->process_start = leader->start_boottime;
	h->pid = task->tgid;
	h->tid = task->pid;
	h->cpu = cpu;
	h->exec_id = leader->self_exec_id;
	h->registers = 0;
	h->stack_bytes = 0;
	h->flags = 0;
	__builtin_memcpy(h->comm, leader->comm, sizeof(h->comm));
	__builtin_memcpy(h->thread, task->comm, sizeof(h->thread));

	/* The copies are volatile because the verifier refuses a pointer that is either ctx or pt_regs. */
	struct walk w = {.scratch = s};
	volatile u64 pc = REGS_PC(&ctx->regs), sp = REGS_SP(&ctx->regs), fp = REGS_FP(&ctx->regs), lr = REGS_LR(&ctx->regs);
	w.pc = pc, w.sp = sp, w.fp = fp, w.lr = lr;

	if (!REGS_USER_MODE(&ctx->regs)) {
		h->flags = SAMPLE_IN_KERNEL;
		long n = bpf_get_stack(ctx, s->words, MAX_KERNEL_FRAMES * 8, 0);
		if (n > 0)
			w.kernel_frames = n / 8;
		if (task->mm && !(task->flags & (PF_KTHREAD | PF_IO_WORKER | PF_USER_WORKER))) {
			task_regs *regs = (task_regs *)bpf_task_pt_regs(task);
			w.pc = REGS_PC(regs), w.sp = REGS_SP(regs), w.fp = REGS_FP(regs), w.lr = REGS_LR(regs);
		} else {
			w.outcome = OUTCOME_KERNEL_ONLY;
		}
	}
	if (w.outcome != OUTCOME_KERNEL_ONLY)
		walk_user(&w);

	h->kernel_frames = w.kernel_frames;
	h->user_frames = w.user_frames;
	h->outcome = w.outcome;

	/* The verifier cannot tell that the two counts stay within MAX_FRAMES together. */
	u64 words = w.kernel_frames + w.user_frames;
	if (words > MAX_FRAMES)
		words = MAX_FRAMES;
	if (w.top_words) {
		s->words[words] = w.top[0];
		s->words[words + 1] = w.top[1];
		words += TOP_WORDS;
		h->stack_bytes = TOP_WORDS * 8;
	}

	void *ring = bpf_map_lookup_elem(&rings, &cpu);
	if (ring) {
		u64 wake = bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) > wake_at_bytes ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
		if (bpf_ringbuf_output(ring, s, sizeof(*h) + words * 8, wake))
			w.outcome = OUTCOME_DROPPED_RING;
	} else {
		w.outcome = OUTCOME_DROPPED_RING;
	}
	if (w.outcome < OUTCOME_COUNT)
		c->outcomes[w.outcome]++;
	c->run_ns += bpf_ktime_get_ns() - start;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
