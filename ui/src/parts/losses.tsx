// The strip that says how much of what happened the samples do not show. Never hidden, not even at zero.

import { count, percent } from "../format";
import type { Loaded } from "../load";
import { isLate, losses, outcomeText } from "../losses";
import { agoText } from "../time";
import type { AgentsAnswer } from "../wire";
import { ErrorNote } from "./notices";

const grade = (part: number, of: number) => (of > 0 && part / of >= 0.05 ? "bad" : of > 0 && part / of >= 0.01 ? "warn" : "ok");

export function LossStrip({ agents }: { agents: Loaded<AgentsAnswer> }) {
  if (agents.failure) return <ErrorNote what="Losses are unknown" failure={agents.failure} retry={agents.retry} />;
  if (!agents.data) return <div class="losses muted">Losses: …</div>;
  const all = agents.data.agents;
  if (all.length === 0) return <div class="losses muted">Losses are unknown: no agent has reported to this server in the last hour.</div>;
  const latest = Math.max(...all.map((a) => a.last_report_ms));
  const alive = all.filter((a) => !isLate(a, latest));
  const total = losses(alive.map((a) => a.total));
  const window = losses(alive.map((a) => a.window));
  const reasons = total.reasons.slice(0, 3).map(([outcome, n]) => `${outcomeText(outcome)} ${percent(n, total.taken)}`);
  return (
    <div class="losses" data-testid="losses">
      <span class={grade(total.missed, total.due)}>
        <b>{percent(total.missed, total.due)}</b> samples missed <span class="muted">({percent(window.missed, window.due)} in the last window)</span>
      </span>
      <span class={grade(total.truncated, total.taken)}>
        <b>{percent(total.truncated, total.taken)}</b> stacks truncated{" "}
        <span class="muted">({[`${percent(window.truncated, window.taken)} in the last window`, ...reasons].join(", ")})</span>
      </span>
      <span class="muted">
        of {count(total.due)} since {alive.length === 1 ? "the agent" : `${alive.length} agents`} started; last report {agoText(latest)}
      </span>
    </div>
  );
}
