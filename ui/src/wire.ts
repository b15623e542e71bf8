// The JSON of the HTTP API, as package profilestore/httpapi writes it. The only file that mirrors it.

/** Every error body: {"error": {...}}. */
export interface ErrorBody {
  error: { code: string; message: string; param?: string; request_id?: string };
}

/**
 * GET /api/v1/flamegraph: a call tree in preorder, heaviest child first, one array per column. The total of
 * a node is self + pruned_value + the totals of its children. `files` holds, for each of `names`, its binary
 * as an index of `file_names`, where "" is unknown. A diff has the columns of B beside those of A.
 */
export interface FlameGraph<Column = number[]> {
  unit: string;
  total: number;
  names: string[];
  files: Column;
  file_names: string[];
  depth: Column;
  name: Column;
  self: Column;
  pruned_count: Column;
  pruned_value: Column;
  total_b?: number;
  self_b?: Column;
  pruned_value_b?: Column;
}

/** What an answer was made from. */
export interface Source {
  profiles: number;
  /** Profiles left out because their stored bytes are damaged. */
  damaged: number;
  /** By each filter in its order: the value of the samples that it dropped. */
  removed?: number[];
}

/** GET /api/v1/top: one row per function name, from the whole data, never pruned. */
export interface Top extends Source {
  unit: string;
  total: number;
  rows: TopRow[];
  total_b?: number;
}

export interface TopRow {
  function: string;
  binary: string;
  file: string;
  self: number;
  total: number;
  self_b?: number;
  total_b?: number;
}

/** GET /api/v1/sandwich: a function, exact; who calls it and whom it calls, as tables and as trees. */
export interface Sandwich extends Source {
  unit: string;
  total: number;
  function: TopRow;
  callers: Call[];
  callees: Call[];
  /** The function as its root, and each caller below what it calls. */
  caller_graph: FlameGraph;
  callee_graph: FlameGraph;
}

export interface Call {
  function: string;
  value: number;
}

/** GET /api/v1/source: the lines of a function; if `no_text` says why there is no text, those with values alone. */
export interface SourceText {
  unit: string;
  total: number;
  function: string;
  file: string;
  no_text?: string;
  /** Line 0 is what the profiles have no line for. */
  lines: { line: number; text: string; self: number; total: number }[];
}

/** GET /api/v1/profiles: single profiles, newest first. */
export interface Profiles {
  profiles: { time_ms: number; duration_ms: number }[];
}

/** GET /api/v1/series: the value of each step, stamped with its start in Unix milliseconds. */
export interface SeriesAnswer {
  unit: string;
  step_ms: number;
  series: Series[];
}

export interface Series {
  labels: Record<string, string>;
  points: [number, number][];
}

/** GET /api/v1/types, /labels, /label/{name}/values. */
export interface Types {
  types: string[];
}
export interface Labels {
  labels: string[];
}
export interface Values {
  values: string[];
}

/** GET /api/v1/agents: the last report of each agent of the last hour. Times are Unix milliseconds. */
export interface AgentsAnswer {
  agents: AgentReport[];
}

export interface AgentReport {
  version: string;
  hostname: string;
  start_ms: number;
  window_ms: number;
  cpus: number;
  frequency_hz: number;
  rss_bytes: number;
  bpf_memory_bytes: number;
  /** How much work the agent sheds to keep to its limits; 0: none. */
  governor_level: number;
  /** Which work that is: "finishing", "records", "samples", "all". Null: none. */
  governor_sheds: string[] | null;
  /** CPU time that it may take in any minute, and memory; 0: no limit. */
  cpu_limit_seconds: number;
  memory_limit_bytes: number;
  unwind_table_bytes: number;
  /** It takes no samples: its off file is there. */
  off: boolean;
  /** Profiles that wait on its disk for the server. */
  spool_bytes: number;
  /** The last window, and everything since the agent started. */
  window: Account;
  total: Account;
  /** By the agent's clock; 0 from one in the server's own process. */
  sent_ms: number;
  last_report_ms: number;
  /** By how much the agent's clock is ahead of the server's. */
  clock_skew_ms: number;
}

export interface Account {
  samples_taken: number;
  samples_missed: number;
  /** They sum to samples_taken. Null while there are none. */
  outcomes: Record<string, number> | null;
  frames: number;
  frames_unnamed: number;
  /** Samples that came without a whole stack, and of them those whose stack the agent walked. */
  unfinished: number;
  finished: number;
  agent_cpu_seconds: number;
  bpf_run_seconds: number;
}
