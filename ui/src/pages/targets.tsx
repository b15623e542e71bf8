import { useCallback, useState } from "preact/hooks";
import { apiUrl, getJson } from "../api";
import { bytes, count, percent, value } from "../format";
import { useLoad } from "../load";
import { isLate, outcomeText } from "../losses";
import { Empty, ErrorNote } from "../parts/notices";
import { agoText, localInput } from "../time";
import type { AgentReport, AgentsAnswer } from "../wire";

export function Targets() {
  const [tick, setTick] = useState(0);
  const reload = useCallback(() => setTick((n) => n + 1), []);
  const loaded = useLoad("agents", (signal) => getJson<AgentsAnswer>(apiUrl("agents", {}), signal), tick);
  const agents = loaded.data?.agents ?? [];
  return (
    <main class="page" aria-busy={loaded.loading}>
      <div class="page-head">
        <h1>Targets</h1>
        <span class="grow" />
        <button type="button" onClick={reload}>Load again</button>
      </div>
      {loaded.failure && <ErrorNote what="Not loaded" failure={loaded.failure} retry={loaded.retry} />}
      {agents.length > 0 && (
        <div class={loaded.loading ? "wide stale" : "wide"} role="region" aria-label="Agents" tabIndex={0}>
          <table class="list">
            <thead>
              <tr>
                <th scope="col">Host</th>
                <th scope="col">Version</th>
                <th scope="col" class="num">Started</th>
                <th scope="col" class="num">Last report</th>
                <th scope="col" class="num">Clock</th>
                <th scope="col" class="num">Waiting</th>
                <th scope="col" class="num">CPUs</th>
                <th scope="col" class="num">Frequency</th>
                <th scope="col" class="num">Taken</th>
                <th scope="col" class="num">Missed</th>
                <th scope="col">Outcomes</th>
                <th scope="col" class="num">Unnamed frames</th>
                <th scope="col" class="num">Own CPU</th>
                <th scope="col" class="num">RSS</th>
                <th scope="col" class="num">BPF memory</th>
              </tr>
            </thead>
            <tbody>{agents.map((a) => <Row key={`${a.hostname} ${a.start_ms}`} agent={a} />)}</tbody>
          </table>
        </div>
      )}
      {!loaded.data && loaded.loading && <Empty title="Loading…" />}
      {loaded.data && agents.length === 0 && (
        <Empty title="No agent has reported.">Start one with <code>sudo pilotlight run</code>, or with <code>pilotlight agent --server {window.location.origin}</code> on another machine.</Empty>
      )}
    </main>
  );
}

/** From here on a clock is wrong: what happened at one time on two machines is seconds apart on the page. */
const clockMs = 2000;

function Frequency({ agent: a }: { agent: AgentReport }) {
  if (a.off) return <>switched off</>;
  if (a.governor_level === 0) return <>{a.frequency_hz} Hz</>;
  const what = (a.governor_sheds ?? []).map((work) => shedText[work] ?? work).join(", ");
  return <>{a.frequency_hz} Hz<span class="sheds">sheds work at level {a.governor_level}{what && `: ${what}`}</span></>;
}

/** What an agent does less of to keep to its limits. */
const shedText: Record<string, string> = {
  finishing: "whole stacks of new code",
  records: "short-lived processes",
  samples: "frequency",
  all: "everything for now",
};

function limits(a: AgentReport): string {
  const cpu = a.cpu_limit_seconds ? `${percent(a.cpu_limit_seconds, 60)} of a core` : "no limit";
  return `it may take ${cpu} in any minute, and ${a.memory_limit_bytes ? bytes(a.memory_limit_bytes) : "any amount of memory"}`;
}

function Row({ agent: a }: { agent: AgentReport }) {
  const now = Date.now();
  const t = a.total;
  const outcomes = Object.entries(t.outcomes ?? {}).filter(([, n]) => n > 0).sort((x, y) => y[1] - x[1]);
  const seconds = (a.last_report_ms - a.start_ms) / 1e3;
  return (
    <tr>
      <td class="service">{a.hostname}</td>
      <td class="mono">{a.version}</td>
      <td class="num" title={`since ${localInput(a.start_ms).replace("T", " ")}`}>{agoText(a.start_ms, now)}</td>
      <td class={isLate(a, now) ? "num bad" : "num"}>{agoText(a.last_report_ms, now)}</td>
      <td class={Math.abs(a.clock_skew_ms) >= clockMs ? "num bad" : "num"} title="ahead of the server's clock">{a.sent_ms ? value(a.clock_skew_ms * 1e6, "nanoseconds") : "–"}</td>
      <td class="num" title="profiles on its disk that the server has not taken yet">{bytes(a.spool_bytes)}</td>
      <td class="num">{a.cpus}</td>
      <td class={a.off || a.governor_level > 0 ? "num bad" : "num"} title={limits(a)}><Frequency agent={a} /></td>
      <td class="num">{count(t.samples_taken)}</td>
      <td class="num">{count(t.samples_missed)} <span class="muted">{percent(t.samples_missed, t.samples_taken + t.samples_missed)}</span></td>
      <td class="outcomes">{outcomes.map(([outcome, n]) => <span key={outcome}>{outcomeText(outcome)} <b>{percent(n, t.samples_taken)}</b></span>)}</td>
      <td class="num">{percent(t.frames_unnamed, t.frames)}</td>
      <td class="num" title="of one core: the agent and, where the kernel counts it, its BPF programs">{percent(t.agent_cpu_seconds + t.bpf_run_seconds, seconds)}</td>
      <td class="num">{bytes(a.rss_bytes)}</td>
      <td class="num">{bytes(a.bpf_memory_bytes)}</td>
    </tr>
  );
}
