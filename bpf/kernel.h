/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * The few kernel declarations the sampler reads. Structures marked CORE are
 * relocated against the running kernel's BTF, so only names and types count
 * here, not offsets; the others are user-space ABI and exact.
 */
#ifndef PILOTLIGHT_KERNEL_H
#define PILOTLIGHT_KERNEL_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef _Bool bool;
enum { false, true };

#define CORE __attribute__((preserve_access_index))

/* include/uapi/linux/bpf.h */
enum { BPF_MAP_TYPE_HASH = 1, BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_PERCPU_ARRAY = 6,
       BPF_MAP_TYPE_ARRAY_OF_MAPS = 12, BPF_MAP_TYPE_RINGBUF = 27 };
enum { BPF_F_NO_PREALLOC = 1 << 0, BPF_F_MMAPABLE = 1 << 10 };
enum { BPF_RB_NO_WAKEUP = 1, BPF_RB_FORCE_WAKEUP = 2 };
enum { BPF_RB_AVAIL_DATA = 0 };
enum { BPF_F_USER_STACK = 1ULL << 8 };

/* include/linux/sched.h: task_struct.flags */
#define PF_IO_WORKER 0x00000010
#define PF_KTHREAD 0x00200000
#define PF_USER_WORKER 0x00004000

#define TASK_COMM_LEN 16

struct mm_struct {
	unsigned long start_code;
} CORE;

struct task_struct {
	unsigned int flags;
	int pid;
	int tgid;
	u64 start_boottime;
	u64 self_exec_id;
	struct task_struct *group_leader;
	struct mm_struct *mm;
	char comm[TASK_COMM_LEN];
} CORE;

/* arch/x86/include/uapi/asm/ptrace.h, arch/arm64/include/uapi/asm/ptrace.h */
#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r15, r14, r13, r12, rbp, rbx;
	unsigned long r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi;
	unsigned long orig_rax, rip, cs, eflags, rsp, ss;
};
typedef struct pt_regs bpf_user_pt_regs_t;
#elif defined(__TARGET_ARCH_arm64)
struct user_pt_regs {
	u64 regs[31];
	u64 sp;
	u64 pc;
	u64 pstate;
};
struct pt_regs {
	struct user_pt_regs user_regs;
};
typedef struct user_pt_regs bpf_user_pt_regs_t;
#else
#error "no register layout for this architecture"
#endif

/* include/uapi/linux/bpf_perf_event.h */
struct bpf_perf_event_data {
	bpf_user_pt_regs_t regs;
	u64 sample_period;
	u64 addr;
};

#endif
