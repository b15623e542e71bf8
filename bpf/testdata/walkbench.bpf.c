//go:build ignore

// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only)
/*
 * Two programs for one benchmark: the sampler's own walk of the user stack and
 * the kernel's, of published processes. Each counts its calls, the frames it saw and its time.
 */
#include "../sampler.bpf.c"

struct walk_cost {
	u64 calls;
	u64 frames;
	u64 ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, u32);
	__type(value, struct walk_cost);
} costs SEC(".maps");

static __always_inline int measure(struct bpf_perf_event_data *ctx, u32 by_helper)
{
	u32 zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);
	struct walk_cost *cost = bpf_map_lookup_elem(&costs, &by_helper);
	struct task_struct *task = bpf_get_current_task_btf();
	u32 pid = task->tgid;
	if (!s || !cost || !REGS_USER_MODE(&ctx->regs) || !bpf_map_lookup_elem(&processes, &pid))
		return 0;
	u64 start = bpf_ktime_get_ns();
	if (by_helper) {
		long n = bpf_get_stack(ctx, s->words, MAX_USER_FRAMES * 8, BPF_F_USER_STACK);
		if (n <= 0)
			return 0;
		cost->frames += n / 8;
	} else {
		identify(&s->header, task);
		walk(ctx, s, task, false);
		cost->frames += s->header.user_frames;
	}
	cost->calls++;
	cost->ns += bpf_ktime_get_ns() - start;
	return 0;
}

SEC("perf_event")
int walk_ours(struct bpf_perf_event_data *ctx)
{
	return measure(ctx, 0);
}

SEC("perf_event")
int walk_helper(struct bpf_perf_event_data *ctx)
{
	return measure(ctx, 1);
}
