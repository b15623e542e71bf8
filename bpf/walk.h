/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * The walk up one user stack, by unwind tables where there are some and by
 * frame pointers elsewhere. What a step by a rule computes is described, and
 * computed once more, in package unwind (Rule.Step).
 */
#ifndef PILOTLIGHT_WALK_H
#define PILOTLIGHT_WALK_H

/*
 * A step looks at the stack through a window of this many bytes (a power of
 * two): a call of bpf_probe_read_user costs far more than the bytes it copies,
 * and most frames are small, so one call serves several frames.
 */
#define WINDOW_BYTES 1024
#define WINDOW_WORDS (WINDOW_BYTES / 8)
#define TOP_WORDS 2 /* taken along where the leaf may have no frame; the first is where a call leaves its return address */
#define PAGE_BITS 12
#define PAGE_BYTES (1 << PAGE_BITS) /* the smallest page there is: what lies within one is resident or not as a whole */
/* A frame pointer further than this above the last frame is some other value in that register. */
#define MAX_FRAME_BYTES (8ULL << 20)
/* Of code of one file: what is further than this above its beginning is some other word of a stack. */
#define MAX_TEXT_BYTES (128ULL << 20)
/* A page has at most as many rows as bytes. */
#define ROW_STEPS PAGE_BITS
#define STRUCT_WORDS 8 /* of a struct process, and of a struct mapping */

/*
 * Registers are kept in the order of pt_regs. REGISTER gives the place there of
 * a register by its DWARF number, which is less than 32. DWARF_RBX is followed
 * from frame to frame because the lazy binding of amd64 needs it.
 */
#if defined(__TARGET_ARCH_x86)
#define NUM_REGISTERS 21
#define REGISTER_FP 4
#define REGISTER_RBX 5
#define REGISTER_PC 16
#define REGISTER_CS 17
#define REGISTER_SP 19
#define DWARF_FP 6
#define DWARF_SP 7
#define DWARF_RBX 3
#define HAS_LINK_REGISTER 0
/* A nibble for each register by its DWARF number: rax, rdx, rcx, rbx, rsi, rdi, rbp, (rsp), r8 to r15. */
#define REGISTER(dwarf) ((dwarf) == DWARF_SP ? REGISTER_SP : (0x01236789f4ed5bcaULL >> ((dwarf) * 4 & 60)) & 15)
#define ALL_KNOWN 0xffff
#define DWARF_RA 16 /* never known: return addresses are in memory */
#define UNSAVED 0xf37 /* rax, rdx, rcx, rsi, rdi, r8 to r11: what no function saves stays known, as in package unwind */
#define FOLLOWED (1 << DWARF_SP | 1 << DWARF_FP | 1 << DWARF_RBX | UNSAVED)
#define RETURN_PC(ra) (ra)
#define LOWEST_FP(sp) (sp)
#define IS_COMPAT(registers) ((registers)[REGISTER_CS] == 0x23) /* __USER32_CS */
#define SIGNAL_WORDS 17
#else
#define NUM_REGISTERS 34
#define REGISTER_FP 29
#define REGISTER_LR 30
#define REGISTER_SP 31
#define REGISTER_PC 32
#define REGISTER_PSTATE 33
#define DWARF_FP 29
#define DWARF_LR 30
#define DWARF_SP 31
#define HAS_LINK_REGISTER 1
#define REGISTER(dwarf) (dwarf)
#define ALL_KNOWN 0xffffffff
#define DWARF_RA DWARF_LR
#define UNSAVED 0
#define FOLLOWED (1U << DWARF_SP | 1U << DWARF_FP)
/* Saved return addresses may be signed in the bits above the address (pointer authentication). */
#define RETURN_PC(ra) ((ra) & ((1ULL << 48) - 1))
/* Go keeps the frame record one word below the stack pointer. */
#define LOWEST_FP(sp) ((sp) - 8)
#define IS_COMPAT(registers) (((registers)[REGISTER_PSTATE] & 0x10) != 0) /* PSR_MODE32_BIT */
#define SIGNAL_WORDS 33
#endif

/*
 * A walk up one user stack: where it stands and the part of the stack it holds. It lies in a map and not on the BPF
 * stack, because the verifier would follow each value there, and with that each way to it.
 */
struct walk {
	u64 registers[NUM_REGISTERS]; /* of the frame the walk stands at */
	u64 known;                    /* bit n: the register with DWARF number n is known in this frame */
	u64 next_fp, next_rbx, next_pc, next_known; /* of its caller */
	struct process process;
	struct mapping mapping; /* the one found last */
	u64 window_start;
	u64 window_len;
	u64 window[WINDOW_WORDS];
	u64 top[TOP_WORDS];
	u32 top_words;
	u32 mappings; /* position of the process's first mapping, 0 if it has none */
	u32 frames;
	u32 outcome;
	bool exact;      /* the pc is an instruction, not a return address */
	bool compat;     /* a 32-bit task */
	bool ship;       /* where the kernel knows too little, user space is to finish the walk */
	bool unfinished; /* it is */
};

#define MAX_WORDS (MAX_FRAMES + NUM_REGISTERS + STACK_BYTES / 8) /* of a sample */

/* Per CPU working memory: too large for the BPF stack. */
struct scratch {
	struct sample_header header;
	/* The frames, then what else a sample carries; a page more than that, for the verifier's sums. */
	u64 words[MAX_WORDS + PAGE_BYTES / 8];
	struct walk walk;
	/* Since this time samples carried so many bytes of user stack; see may_ship. */
	u64 shipping_since;
	u64 shipped_bytes;
};

/*
 * key: number of a shard; value: one array of words, made when the shards before it are full. Tables and the
 * mappings of processes lie in them, at positions (shard << 16 | word), written by user space through mmap: an
 * operation on a map would keep this program from running on the CPU where it is done.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_SHARDS);
	__uint(key_size, sizeof(u32));
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(map_flags, BPF_F_MMAPABLE);
		__uint(max_entries, 1);
		__uint(key_size, sizeof(u32));
		__uint(value_size, SHARD_WORDS * sizeof(u32));
	});
} shards SEC(".maps");

/*
 * key: pid; value: position of the struct process in the shards, written by user space. What the entry says is in one
 * word, because an entry that is replaced may be reused while the program looks at it; the struct process is not.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_PROCESSES);
	__type(key, u32);
	__type(value, u32);
} processes SEC(".maps");

/* key: number of a rule in the rows; value: the rule, written by user space through mmap. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_RULES);
	__type(key, u32);
	__type(value, struct rule);
} rules SEC(".maps");

/* load reads the word at addr of the user's stack. */
static __always_inline long load(struct walk *w, u64 addr, u64 *word)
{
	u64 offset = addr - w->window_start;

	if (offset & 7 || offset >= w->window_len) {
		u64 len = PAGE_BYTES - (addr & (PAGE_BYTES - 1));
		if (len > WINDOW_BYTES)
			len = WINDOW_BYTES;
		if (len < 8)
			len = 8;
		w->window_len = 0;
		if (bpf_probe_read_user(w->window, len, (void *)addr))
			return -1;
		w->window_start = addr;
		w->window_len = len & ~7ULL;
		offset = 0;
	}
	/* The mask tells the verifier what window_len has said already. */
	*word = w->window[(offset >> 3) & (WINDOW_WORDS - 1)];
	return 0;
}

/* shard_of returns the words of the shard in which a position lies, and NULL for one that has not been made. */
static __always_inline u64 *shard_of(u32 position)
{
	u32 number = position >> 16, zero = 0;
	void *map = bpf_map_lookup_elem(&shards, &number);
	if (!map)
		return 0;
	return bpf_map_lookup_elem(map, &zero);
}

/*
 * What lies at a position. The masks are for the verifier, and for whatever else the shards may contain: what would lie
 * beyond the end of a shard is taken from its beginning. A struct process and a struct mapping have eight words and
 * positions that are multiples of that.
 */
static __always_inline u32 word_at(const u64 *words, u32 position)
{
	return ((const u32 *)words)[position & (SHARD_WORDS - 1)];
}

static __always_inline u64 pair_at(const u64 *words, u32 position)
{
	return words[(position & (SHARD_WORDS - 2)) / 2];
}

static __always_inline const void *struct_at(const u64 *words, u32 position)
{
	return &words[(position & (SHARD_WORDS - 8)) / 2];
}

/*
 * select returns n where a <= b and else 0, for a and b below 1 << 63. A
 * branch in a search would double what the verifier has to follow at each step.
 */
static __always_inline u32 select(u64 a, u64 b, u32 n)
{
	u64 below = (b - a) >> 63;
	asm volatile("" : "+r"(below)); /* or clang makes a branch of it */
	return n & ((u32)below - 1);
}

/* find_mapping makes the mapping at pc the current one. */
static __always_inline bool find_mapping(struct walk *w, u64 pc)
{
	struct mapping *m = &w->mapping;
	if (pc >= m->start && pc < m->end)
		return true;
	const u64 *words = shard_of(w->mappings);
	if (!words)
		return false;
	u32 first = w->mappings;
	u32 n = w->process.mappings;
	for (int i = 0; i < MAPPING_STEPS; i++) {
		u32 half = n / 2;
		const struct mapping *middle = struct_at(words, first + half * STRUCT_WORDS);
		first += select(middle->start, pc, half) * STRUCT_WORDS;
		n -= half;
	}
	*m = *(const struct mapping *)struct_at(words, first);
	return pc >= m->start && pc < m->end;
}

/* find_rule returns the rule for pc in the current mapping. */
static __always_inline struct rule *find_rule(struct walk *w, u64 pc)
{
	u64 addr = pc - w->mapping.base;
	u32 offset = addr & (PAGE_BYTES - 1);
	const u64 *words = shard_of(w->mapping.directory);
	if (!words)
		return 0;
	u64 page = pair_at(words, w->mapping.directory + (u32)(addr >> PAGE_BITS) * 2);
	u32 rows = (u32)page, n = page >> 32;
	if (n == 0)
		return 0;
	words = shard_of(rows);
	if (!words)
		return 0;
	for (int i = 0; i < ROW_STEPS; i++) {
		u32 half = n / 2;
		rows += select(word_at(words, rows + half) & 0xffff, offset, half);
		n -= half;
	}
	u32 number = word_at(words, rows) >> 16;
	return bpf_map_lookup_elem(&rules, &number);
}

static __always_inline bool is_known(struct walk *w, u32 dwarf)
{
	return dwarf < 32 && w->known >> dwarf & 1;
}

static __always_inline u64 get(struct walk *w, u32 dwarf)
{
	u32 i = REGISTER(dwarf);
	return w->registers[i < NUM_REGISTERS ? i : 0];
}

/* saved puts the caller's value of a register into next, if it can be known, and returns whether it could be read. */
static __always_inline long saved(struct walk *w, u8 kind, s16 offset, u64 cfa, u32 dwarf, u64 *next)
{
	u64 base = cfa;
	u32 from = dwarf;

	if (kind == SAVE_REGISTER) {
		from = (u16)offset;
		kind = SAVE_SAME;
	}
	if (kind == SAVE_SAME) {
		if (is_known(w, from)) {
			*next = get(w, from);
			w->next_known |= 1ULL << dwarf;
		}
		return 0;
	}
	if (kind == SAVE_AT_FP) {
		if (!is_known(w, DWARF_FP))
			return 0;
		base = w->registers[REGISTER_FP];
	} else if (kind == SAVE_AT_SP) {
		base = w->registers[REGISTER_SP];
	} else if (kind != SAVE_AT_CFA) {
		return 0;
	}
	if (load(w, base + offset * 8LL, next))
		/* gcc says so for two instructions too long at the end of aligned frames, when rbp is the caller's already. */
		return kind == SAVE_AT_FP ? 0 : -1;
	w->next_known |= 1ULL << dwarf;
	return 0;
}

/* frame_address computes the CFA, the caller's stack pointer, and returns whether the rule says one. */
static __always_inline u32 frame_address(struct walk *w, const struct rule *r, u64 *cfa)
{
	u64 *registers = w->registers;
	u64 sp = registers[REGISTER_SP];
	u8 kind = r->cfa;

	if (kind == CFA_PLT) {
		*cfa = sp + 8 + ((registers[REGISTER_PC] & 15) >= (u64)(s64)r->cfa_offset) * 8;
		return OUTCOME_COUNT;
	}
	if (kind != CFA_REGISTER && kind != CFA_DEREF && kind != CFA_DEREF_INDEX)
		return OUTCOME_BAD_RULE;
	if (!is_known(w, r->cfa_register))
		return OUTCOME_BAD_RULE;
	u64 base = get(w, r->cfa_register);
	if (kind == CFA_DEREF_INDEX)
		base = sp + 8 * base;
	base += (s64)r->cfa_offset;
	if (kind == CFA_REGISTER) {
		*cfa = base;
		/* From memory a CFA may be on another stack, not so from a register. With a link register a leaf's frame may be empty. */
		if (base < sp + (HAS_LINK_REGISTER && w->exact ? 0 : 8))
			return OUTCOME_BAD_RULE;
		return OUTCOME_COUNT;
	}
	if (load(w, base, cfa))
		return OUTCOME_UNREADABLE;
	*cfa += r->cfa_add * 8LL;
	return OUTCOME_COUNT;
}

/* step_signal goes from a signal handler's trampoline to what the signal interrupted. */
static __always_inline u32 step_signal(struct walk *w, const struct rule *r)
{
	u64 *registers = w->registers;
	u64 block[SIGNAL_WORDS];

	if (bpf_probe_read_user(block, sizeof(block), (void *)(registers[REGISTER_SP] + (s64)r->cfa_offset)))
		return OUTCOME_UNREADABLE;
#if defined(__TARGET_ARCH_x86)
	/* struct sigcontext of arch/x86/include/uapi/asm/sigcontext.h */
	static const u8 dwarf[SIGNAL_WORDS - 1] = {8, 9, 10, 11, 12, 13, 14, 15, 5, 4, 6, 3, 1, 0, 2, 7};
#pragma unroll
	for (int i = 0; i < SIGNAL_WORDS - 1; i++)
		registers[REGISTER(dwarf[i])] = block[i];
	registers[REGISTER_PC] = block[16];
#else
	/* struct sigcontext of arch/arm64/include/uapi/asm/sigcontext.h */
#pragma unroll
	for (int i = 0; i < SIGNAL_WORDS; i++)
		registers[i] = block[i];
#endif
	w->known = ALL_KNOWN;
	w->exact = true;
	return registers[REGISTER_PC] ? OUTCOME_COUNT : OUTCOME_BAD_RULE;
}

/* is_near tells whether a frame record may be the next one above a place in a stack. */
static __always_inline bool is_near(u64 record, u64 place)
{
	return record >= place && record - place <= MAX_FRAME_BYTES;
}

/* is_same_text tells whether a return address may be in the file in which the pc is: a file with a table has several mappings. */
static __always_inline bool is_same_text(struct walk *w, u64 ra)
{
	const struct mapping *m = &w->mapping;

	if (ra > m->start && ra < m->end)
		return true;
	return m->kind != CODE_FRAME_POINTER && ra > m->base && ra - m->base < MAX_TEXT_BYTES;
}

/*
 * is_switch tells whether the frame record {next, ra} at fp may be where code left one stack for another, as Go's
 * runtime does for its own work: it was called by the same file's code, and the chain goes up from there.
 */
static __always_inline bool is_switch(struct walk *w, u64 fp, u64 next, u64 ra)
{
	return is_same_text(w, ra) && (next == 0 || is_near(next, fp + 16));
}

/*
 * step_frame_pointer goes to the caller by a frame record: {caller's frame pointer, return address}. The ABI marks the
 * outermost one by a frame pointer of zero. Only of code that is known to keep frame pointers (kept) is it certain that
 * the register is one; elsewhere a leaf's zero says nothing, and a record out of reach is none.
 */
static __always_inline u32 step_frame_pointer(struct walk *w, bool kept)
{
	u64 *registers = w->registers;
	u64 fp = registers[REGISTER_FP], sp = registers[REGISTER_SP];
	u64 ra, next;

	if (!is_known(w, DWARF_FP))
		return OUTCOME_NO_TABLE;
	if (w->frames == 1) {
#if HAS_LINK_REGISTER
		w->top[0] = RETURN_PC(registers[REGISTER_LR]);
		w->top_words = TOP_WORDS;
#else
		if (!load(w, sp, &w->top[0]) && !load(w, sp + 8, &w->top[1]))
			w->top_words = TOP_WORDS;
#endif
	}
	if (fp == 0)
		return kept || w->frames > 1 ? OUTCOME_COMPLETE : OUTCOME_NO_TABLE;
	if (fp & 7 || !(kept || is_near(fp, LOWEST_FP(sp))))
		return OUTCOME_NO_TABLE;
	if (load(w, fp, &next) || load(w, fp + 8, &ra))
		return OUTCOME_UNREADABLE;
	ra = RETURN_PC(ra);
	if (!is_near(fp, LOWEST_FP(sp)) && !is_switch(w, fp, next, ra))
		return OUTCOME_NO_TABLE;
	if (ra == 0)
		return next == 0 ? OUTCOME_COMPLETE : OUTCOME_NO_TABLE;
	registers[REGISTER_PC] = ra;
	registers[REGISTER_SP] = fp + 16;
	registers[REGISTER_FP] = next;
	w->known &= FOLLOWED;
	w->exact = false;
	return OUTCOME_COUNT;
}

/*
 * step_kept goes to the caller by the frame record of CODE_KEPT, which takes a tenth of the time of a search in the
 * table: that touches memory in ten places, all of which other work has pushed out of the caches since the last sample.
 * It returns false where there is no record, as when assembly has used the frame pointer for something else.
 */
static __always_inline bool step_kept(struct walk *w)
{
	u64 *registers = w->registers;
	u64 fp = registers[REGISTER_FP];
	u64 ra, next;

	if (!is_known(w, DWARF_FP) || fp & 7 || !is_near(fp, registers[REGISTER_SP]))
		return false;
	if (load(w, fp, &next) || load(w, fp + 8, &ra))
		return false;
	if (!is_same_text(w, ra))
		return false;
	registers[REGISTER_PC] = ra;
	registers[REGISTER_SP] = fp + 16;
	registers[REGISTER_FP] = next;
	w->known &= 1U << DWARF_SP | 1U << DWARF_FP | UNSAVED;
	return true;
}

/* step_compat is step_frame_pointer in a 32-bit task, whose frame records are a word in all. */
static __always_inline u32 step_compat(struct walk *w)
{
	u64 *registers = w->registers;
	u64 fp = registers[REGISTER_FP], sp = registers[REGISTER_SP], record;

	if (fp == 0)
		return w->frames > 1 ? OUTCOME_COMPLETE : OUTCOME_NO_TABLE;
	if (fp & 3 || !is_near(fp, sp))
		return OUTCOME_NO_TABLE;
	if (load(w, fp, &record))
		return OUTCOME_UNREADABLE;
	if (record >> 32 == 0)
		return record == 0 ? OUTCOME_COMPLETE : OUTCOME_NO_TABLE;
	registers[REGISTER_PC] = record >> 32;
	registers[REGISTER_SP] = fp + 8;
	registers[REGISTER_FP] = (u32)record;
	w->exact = false;
	return OUTCOME_COUNT;
}

/* step_rule goes to the caller by a rule of a table. */
static __always_inline u32 step_rule(struct walk *w, const struct rule *r)
{
	u64 *registers = w->registers;
	u64 cfa;

	u32 outcome = frame_address(w, r, &cfa);
	if (outcome != OUTCOME_COUNT)
		return outcome;
	w->next_known = 1U << DWARF_SP | (w->known & UNSAVED);
	/* In this order because a prologue saves them in the other: the window then reaches from the first to the last. */
#if defined(__TARGET_ARCH_x86)
	if (saved(w, r->rbx, r->rbx_offset, cfa, DWARF_RBX, &w->next_rbx))
		return OUTCOME_UNREADABLE;
#endif
	if (saved(w, r->fp, r->fp_offset, cfa, DWARF_FP, &w->next_fp))
		return OUTCOME_UNREADABLE;
	if (saved(w, r->ra, r->ra_offset, cfa, DWARF_RA, &w->next_pc))
		return OUTCOME_UNREADABLE;
	u64 ra = RETURN_PC(w->next_pc);
	if (!(w->next_known >> DWARF_RA & 1) || ra == 0)
		return OUTCOME_BAD_RULE;
#if defined(__TARGET_ARCH_x86)
	registers[REGISTER_RBX] = w->next_rbx;
#endif
	registers[REGISTER_PC] = ra;
	registers[REGISTER_SP] = cfa;
	registers[REGISTER_FP] = w->next_fp;
	w->known = w->next_known & FOLLOWED;
	w->exact = false;
	return OUTCOME_COUNT;
}

/* step goes from one frame to its caller and returns OUTCOME_COUNT while there may be more. */
static __always_inline u32 step(struct walk *w)
{
	if (w->compat)
		return step_compat(w);

	u64 pc = w->registers[REGISTER_PC];
	u32 kind = CODE_UNKNOWN, lacks = OUTCOME_NO_MAPPING;
	if (!w->exact)
		pc--; /* the call, not what comes after it */
	if (w->mappings && find_mapping(w, pc)) {
		kind = w->mapping.kind;
		lacks = OUTCOME_NO_TABLE;
	}
	if (kind == CODE_KEPT && !w->exact && step_kept(w))
		return OUTCOME_COUNT;
	const struct rule *r = 0;
	bool kept = kind == CODE_FRAME_POINTER || kind == CODE_FRAME_POINTER_TABLE || kind == CODE_KEPT;
	switch (kind) {
	case CODE_UNKNOWN:
		if (!w->ship)
			break;
		w->unfinished = true;
		return lacks;
	case CODE_TABLE:
	case CODE_FRAME_POINTER_TABLE:
	case CODE_KEPT:
		r = find_rule(w, pc);
		if (!r)
			return OUTCOME_NO_TABLE;
		break;
	case CODE_FRAME_POINTER:
	case CODE_JIT_FRAME_POINTER:
		break;
	case CODE_JIT:
		return OUTCOME_JIT_END;
	default:
		return OUTCOME_NO_TABLE;
	}
	if (!r || r->cfa == CFA_FRAME_POINTER) {
		u32 outcome = step_frame_pointer(w, kept);
		return kind == CODE_JIT_FRAME_POINTER && outcome != OUTCOME_COUNT ? OUTCOME_JIT_END : outcome;
	}
	if (r->cfa == CFA_END)
		return OUTCOME_COMPLETE;
	if (r->cfa == CFA_SIGNAL)
		return step_signal(w, r);
	return step_rule(w, r);
}

/* find_process looks up what user space published about the process that h names. */
static __always_inline void find_process(struct walk *w, const struct sample_header *h)
{
	u32 pid = h->pid;
	u32 *position = bpf_map_lookup_elem(&processes, &pid);
	if (!position)
		return;
	u32 at = *(volatile u32 *)position;
	const u64 *words = shard_of(at);
	if (!words)
		return;
	w->process = *(const struct process *)struct_at(words, at);
	if (w->process.start == h->process_start && w->process.pid == pid && w->process.exec_id == h->exec_id)
		w->mappings = at + STRUCT_WORDS;
}

static long walk_frame(u32 i, struct scratch **ctx)
{
	struct scratch *s = *ctx;
	struct walk *w = &s->walk;
	u32 at = s->header.kernel_frames + w->frames;

	if (at < MAX_FRAMES) /* always so, but sums of two counts are more than the verifier follows */
		s->words[at] = w->registers[REGISTER_PC] + (w->exact && w->frames > 0); /* what a signal interrupted, as a return address */
	w->frames++;
	w->outcome = step(w);
	return w->outcome != OUTCOME_COUNT;
}

/*
 * walk_user walks from the frame that the registers say to the thread's entry, and notes in the header how far it came
 * and why no further.
 */
static __always_inline void walk_user(struct scratch *s, bool ship)
{
	struct walk *w = &s->walk;

	w->known = ALL_KNOWN;
	w->exact = true;
	w->ship = ship;
	w->compat = IS_COMPAT(w->registers);
	w->mapping.end = 0;
	w->window_len = 0;
	w->mappings = 0;
	w->frames = 0;
	if (!w->compat)
		find_process(w, &s->header);
	bpf_loop(MAX_USER_FRAMES, walk_frame, &s, 0);
	if (w->outcome == OUTCOME_COUNT)
		w->outcome = OUTCOME_TOO_DEEP;
	s->header.user_frames = w->frames;
	s->header.outcome = w->outcome;
}

#endif
