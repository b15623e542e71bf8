import type { FlameGraph } from "../../src/wire";

/** The example of the API's contract: main calls a (self 2) and b; b calls c; two functions below c were pruned. */
export function example(): FlameGraph {
  return {
    unit: "nanoseconds", total: 10, names: ["total", "main", "b", "c", "a"], files: [0, 1, 1, 1, 1], file_names: ["", "app"],
    depth: [0, 1, 2, 3, 2], name: [0, 1, 2, 3, 4], self: [0, 1, 1, 4, 2], pruned_count: [0, 0, 0, 2, 0], pruned_value: [0, 0, 0, 2, 0],
  };
}

/** A small, fixed generator (mulberry32), so that a failure can be repeated. */
export function random(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** A random tree of n nodes with values over many magnitudes. */
export function randomGraph(seed: number, n: number, maxDepth = 40): FlameGraph {
  const next = random(seed);
  const g: FlameGraph = { unit: "nanoseconds", total: 0, names: ["total"], files: [0], file_names: ["", "app", "[kernel.kallsyms]"], depth: [0], name: [0], self: [0], pruned_count: [0], pruned_value: [0] };
  for (let i = 1; i < 50; i++) {
    g.names.push(`f${i}`);
    g.files.push(i % 3);
  }
  for (let i = 1; i < n; i++) {
    const before = g.depth[i - 1]!;
    g.depth.push(Math.min(maxDepth, Math.max(1, before + 1 - Math.floor(next() * next() * (before + 1)))));
    g.name.push(1 + Math.floor(next() * 49));
    g.self.push(Math.floor(10 ** (next() * 6)));
    const pruned = next() < 0.1;
    g.pruned_count.push(pruned ? 1 + Math.floor(next() * 9) : 0);
    g.pruned_value.push(pruned ? Math.floor(next() * 1000) + 1 : 0);
  }
  g.total = g.self.reduce((a, b) => a + b, 0) + g.pruned_value.reduce((a, b) => a + b, 0);
  return g;
}
