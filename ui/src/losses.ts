// What the samples do not show, summed over agents. Pure.

import type { Account, AgentReport } from "./wire";

/** An agent reports once a window of 10 s; after three without a report something is wrong. */
const lateMs = 35e3;

export function isLate(agent: AgentReport, now: number): boolean {
  return now - agent.last_report_ms > lateMs;
}

/** Outcomes that are lost altogether, and those whose stacks are whole; all others are truncated. */
const dropped = ["dropped_ring", "dropped_user"];
const whole = ["complete", "kernel_only"];

export interface Losses {
  taken: number;
  /** Samples that ought to have been: taken and missed. */
  due: number;
  /** Not taken, or taken and dropped before they were reported. */
  missed: number;
  truncated: number;
  /** Truncated by outcome, largest first. */
  reasons: [string, number][];
}

export function losses(accounts: readonly Account[]): Losses {
  const sum: Losses = { taken: 0, due: 0, missed: 0, truncated: 0, reasons: [] };
  const reasons = new Map<string, number>();
  for (const a of accounts) {
    sum.taken += a.samples_taken;
    sum.missed += a.samples_missed;
    sum.due += a.samples_taken + a.samples_missed;
    for (const [outcome, n] of Object.entries(a.outcomes ?? {})) {
      if (dropped.includes(outcome)) sum.missed += n;
      else if (!whole.includes(outcome)) {
        sum.truncated += n;
        reasons.set(outcome, (reasons.get(outcome) ?? 0) + n);
      }
    }
  }
  sum.reasons = [...reasons].filter(([, n]) => n > 0).sort((a, b) => b[1] - a[1]);
  return sum;
}

export function outcomeText(outcome: string): string {
  return outcome.replaceAll("_", " ");
}
