//go:build ignore

// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only)
/*
 * The sampler that stops what it samples, so that a debugger can look at the
 * very stack that the sampler saw: the signal is delivered before the
 * interrupted thread runs another instruction of its own.
 */
#include "../sampler.bpf.c"

/*
 * Not SIGSTOP, by which debuggers stop the other threads. The C libraries keep
 * this one for themselves, so that no program can have it blocked.
 */
#define STOP_SIGNAL 33

struct stop {
	u64 time;   /* just before the sample of the thread that was stopped, CLOCK_MONOTONIC, ns */
	s64 result; /* what bpf_send_signal_thread returned */
	u32 tid;    /* the thread that was stopped */
	u32 pid;    /* the process of which the next thread to be sampled is stopped; 0 once that was done. Last: it is written last. */
};

/* key: 0; value: whom to stop, written by user space, and who was, written by the program. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct stop);
} stops SEC(".maps");

SEC("perf_event")
int sample_and_stop(struct bpf_perf_event_data *ctx)
{
	u64 before = bpf_ktime_get_ns();
	u64 ids = bpf_get_current_pid_tgid();
	u32 zero = 0, pid = ids >> 32;
	struct stop *stop = bpf_map_lookup_elem(&stops, &zero);

	sample(ctx);
	if (!stop || pid == 0 || stop->pid != pid || __sync_val_compare_and_swap(&stop->pid, pid, 0) != pid)
		return 0;
	stop->tid = (u32)ids;
	stop->time = before;
	stop->result = bpf_send_signal_thread(STOP_SIGNAL);
	return 0;
}
