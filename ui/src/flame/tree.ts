// A call tree as typed-array columns, decoded from the wire and indexed for drawing. Pure: runs in the worker.

import type { FlameGraph } from "../wire";
import { colorNames, type ColorMode } from "./color";

/** One of the two things that a diff compares. */
export interface Side {
  self: Float64Array;
  total: Float64Array;
  prunedValue: Float64Array;
}

/** What is drawn on each row, in drawing order: of depth d, entries begin[d] to begin[d + 1] - 1. Each covers [from, to) of the axis. */
export interface Rows {
  begin: Uint32Array;
  node: Uint32Array;
  from: Float64Array;
  to: Float64Array;
}

/**
 * Nodes are numbered in preorder; the subtree of node i is [i, end[i]). On the axis a node covers
 * [start, start + weight): first its children, then what was pruned, then itself. Weights are values; in a
 * diff each is the larger of both sides', so that what only one side has is there too.
 */
export interface Tree {
  unit: string;
  count: number;
  maxDepth: number;
  names: string[];
  /** Per name: index into binaries. */
  binaryOf: Uint32Array;
  binaries: string[];
  /** Per name: index into the palette. */
  colors: Record<ColorMode, Uint8Array>;

  depth: Uint16Array;
  name: Uint32Array;
  self: Float64Array;
  total: Float64Array;
  /** B of a diff. */
  b: Side | null;
  /** A value of B times this compares with one of A. */
  scaleB: number;
  weight: Float64Array;
  start: Float64Array;
  /** -1 for the root. */
  parent: Int32Array;
  end: Uint32Array;
  prunedCount: Uint32Array;
  prunedValue: Float64Array;

  rows: Rows;
  /** Parents of pruned children, by the depth of those children. */
  prunedRows: Rows;
}

/** Depths are held in 16 bits; the store keeps stacks of at most 8,192 frames. */
const depthLimit = 65535;

/** What one of B counts as one of A; "shares" makes the totals of both sides equal. */
export type Scale = number | "shares";

/** Decodes an answer. Throws an Error that names the first inconsistency. */
export function decode(g: FlameGraph<ArrayLike<number>>, scale: Scale = 1): Tree {
  const n = g.depth.length;
  for (const column of ["name", "self", "pruned_count", "pruned_value"] as const) {
    if (g[column].length !== n) throw new Error(`flame graph: column ${column} has ${g[column].length} rows, depth has ${n}`);
  }
  if (g.files.length !== g.names.length) throw new Error(`flame graph: ${g.files.length} files for ${g.names.length} names`);
  if (n === 0) throw new Error("flame graph: no root");
  if (g.depth[0] !== 0) throw new Error(`flame graph: the root has depth ${g.depth[0]}`);

  const depth = new Uint16Array(n);
  const name = Uint32Array.from(g.name);
  const self = Float64Array.from(g.self);
  const prunedCount = Uint32Array.from(g.pruned_count);
  const prunedValue = Float64Array.from(g.pruned_value);
  const start = new Float64Array(n);
  const parent = new Int32Array(n);
  const end = new Uint32Array(n);
  const binaryOf = Uint32Array.from(g.files);
  for (let i = 0; i < binaryOf.length; i++) {
    if (binaryOf[i]! >= g.file_names.length) throw new Error(`flame graph: name ${i} has file ${binaryOf[i]} of ${g.file_names.length}`);
  }

  // Preorder down: parents, from the last node seen on each depth.
  const lastAt: number[] = [];
  let maxDepth = 0;
  for (let i = 0; i < n; i++) {
    const d = g.depth[i]!;
    if (i > 0 && (d < 1 || d > g.depth[i - 1]! + 1)) throw new Error(`flame graph: node ${i} has depth ${d} after ${g.depth[i - 1]}`);
    if (d > depthLimit) throw new Error(`flame graph: node ${i} has depth ${d}, the limit is ${depthLimit}`);
    if (name[i]! >= g.names.length) throw new Error(`flame graph: node ${i} has name ${name[i]} of ${g.names.length}`);
    depth[i] = d;
    parent[i] = d === 0 ? -1 : lastAt[d - 1]!;
    lastAt[d] = i;
    if (d > maxDepth) maxDepth = d;
  }
  for (let i = n - 1; i >= 0; i--) {
    if (end[i] === 0) end[i] = i + 1;
    const p = parent[i]!;
    if (p >= 0 && end[p]! < end[i]!) end[p] = end[i]!;
  }
  const total = sumUp(parent, self, prunedValue);
  let b: Side | null = null;
  let scaleB = 1;
  let weight = total;
  let selfWeight = self;
  let prunedWeight = prunedValue;
  if (g.self_b && g.pruned_value_b) {
    const selfB = Float64Array.from(g.self_b);
    const prunedB = Float64Array.from(g.pruned_value_b);
    if (selfB.length !== n || prunedB.length !== n) throw new Error(`flame graph: B has ${selfB.length} rows, depth has ${n}`);
    b = { self: selfB, total: sumUp(parent, selfB, prunedB), prunedValue: prunedB };
    if (scale !== "shares") scaleB = scale;
    else if (total[0]! > 0 && b.total[0]! > 0) scaleB = total[0]! / b.total[0]!;
    selfWeight = self.map((v, i) => Math.max(v, selfB[i]! * scaleB));
    prunedWeight = prunedValue.map((v, i) => Math.max(v, prunedB[i]! * scaleB));
    weight = sumUp(parent, selfWeight, prunedWeight);
  }
  // Downwards again: where each node starts. `next` is where the next child of a node goes.
  const next = new Float64Array(n);
  for (let i = 1; i < n; i++) {
    const p = parent[i]!;
    start[i] = next[p]!;
    next[i] = start[i]!;
    next[p] = next[p]! + weight[i]!;
  }

  const prunedEnd = (i: number) => start[i]! + weight[i]! - selfWeight[i]!;
  return {
    unit: g.unit, count: n, maxDepth, names: g.names, binaryOf, binaries: g.file_names, colors: colorNames(g.names, binaryOf, g.file_names),
    depth, name, self, total, b, scaleB, weight, start, parent, end, prunedCount, prunedValue,
    rows: byRow(depth, maxDepth, 0, () => true, (i) => start[i]!, (i) => start[i]! + weight[i]!),
    prunedRows: byRow(depth, maxDepth, 1, (i) => prunedCount[i]! > 0, (i) => prunedEnd(i) - prunedWeight[i]!, prunedEnd),
  };
}

/** Sorts nodes into the rows that lie so far below theirs. */
function byRow(depth: Uint16Array, maxDepth: number, below: number, has: (i: number) => boolean, from: (i: number) => number, to: (i: number) => number): Rows {
  // A pruned child may lie one row below the deepest node.
  const begin = new Uint32Array(maxDepth + 3);
  let count = 0;
  for (let i = 0; i < depth.length; i++) {
    if (!has(i)) continue;
    begin[depth[i]! + below + 1]!++;
    count++;
  }
  for (let d = 1; d < begin.length; d++) begin[d] = begin[d]! + begin[d - 1]!;
  const rows: Rows = { begin, node: new Uint32Array(count), from: new Float64Array(count), to: new Float64Array(count) };
  const next = begin.slice();
  for (let i = 0; i < depth.length; i++) {
    if (!has(i)) continue;
    const k = next[depth[i]! + below]!++;
    rows.node[k] = i;
    rows.from[k] = from(i);
    rows.to[k] = to(i);
  }
  return rows;
}

/** The buffers to hand over when a tree is posted from the worker to the page. */
export function buffers(t: Tree): ArrayBuffer[] {
  const columns = [t.binaryOf, ...Object.values(t.colors), t.depth, t.name, t.self, t.total, t.weight, t.start, t.parent, t.end, t.prunedCount, t.prunedValue,
    ...Object.values(t.rows), ...Object.values(t.prunedRows), ...(t.b ? Object.values(t.b) : [])];
  return [...new Set(columns.map((a) => a.buffer as ArrayBuffer))];
}

/** For each node what it and all below it hold. */
function sumUp(parent: Int32Array, self: Float64Array, pruned: Float64Array): Float64Array {
  const total = new Float64Array(self.length);
  for (let i = self.length - 1; i >= 0; i--) {
    total[i] = total[i]! + self[i]! + pruned[i]!;
    const p = parent[i]!;
    if (p >= 0) total[p] = total[p]! + total[i]!;
  }
  return total;
}

/** How A differs from B at a node, in A's unit: above zero where A has more. */
export function delta(t: Tree, node: number): number {
  return t.b ? t.total[node]! - t.b.total[node]! * t.scaleB : 0;
}

export function firstChild(t: Tree, node: number): number {
  return t.end[node]! > node + 1 ? node + 1 : -1;
}

export function nextSibling(t: Tree, node: number): number {
  const p = t.parent[node]!;
  return p >= 0 && t.end[node]! < t.end[p]! ? t.end[node]! : -1;
}

export function previousSibling(t: Tree, node: number): number {
  const p = t.parent[node]!;
  if (p < 0 || node === p + 1) return -1;
  let i = p + 1;
  while (t.end[i]! < node) i = t.end[i]!;
  return i;
}

/** Function names from below the root to a node; [] for the root. */
export function pathOf(t: Tree, node: number): string[] {
  const out: string[] = [];
  for (let i = node; i > 0; i = t.parent[i]!) out.push(t.names[t.name[i]!]!);
  return out.reverse();
}

/** Follows names down from the root. `left` counts the names for which no node was found. */
export function findPath(t: Tree, path: readonly string[]): { node: number; left: number } {
  let node = 0;
  for (let k = 0; k < path.length; k++) {
    let child = firstChild(t, node);
    while (child >= 0 && t.names[t.name[child]!] !== path[k]) child = nextSibling(t, child);
    if (child < 0) return { node, left: path.length - k };
    node = child;
  }
  return { node, left: 0 };
}

/** Whether anything in the subtree of a node was pruned. */
export function hasPruned(t: Tree, node: number): boolean {
  for (let i = node; i < t.end[node]!; i++) {
    if (t.prunedCount[i]! > 0) return true;
  }
  return false;
}
