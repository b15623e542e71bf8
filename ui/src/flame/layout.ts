// Layout: columns and a viewport in, rectangles out. Pure, no DOM. The cost depends on the pixels that are
// visible and not on the nodes: each row is entered by binary search, and a run of nodes thinner than a pixel
// becomes one rectangle and is skipped by another search.

import type { Rows, Tree } from "./tree";

export const Kind = {
  /** A node. */
  Node: 0,
  /** A node above the focus: full width. */
  Ancestor: 1,
  /** The pruned children of `node`. */
  Pruned: 2,
  /** Nodes too thin to tell apart; `node` is the first. */
  Run: 3,
  /** A row above the tree's own root; `node` counts from the top. */
  Above: 4,
} as const;

export interface View {
  /** The node that fills the width. */
  focus: number;
  /** Rows above the tree's root: the callers of a subtree that was fetched by itself. */
  above: number;
  /** CSS pixels. */
  width: number;
  height: number;
  scrollTop: number;
  rowHeight: number;
  /** Rows of the whole graph, and whether the root is the last of them: callers stand on what they call. */
  rows: number;
  flipped: boolean;
}

/** The row of the graph, counted from its root, that is drawn as row `k` from the top; and the other way round. */
export function flip(v: Pick<View, "rows" | "flipped">, k: number): number {
  return v.flipped ? v.rows - 1 - k : k;
}

/** Rectangles in viewport coordinates, one array per column; all have the height of a row. */
export interface Rects {
  count: number;
  x: Float32Array;
  y: Float32Array;
  width: Float32Array;
  node: Uint32Array;
  kind: Uint8Array;
}

/** Narrower than this, in CSS pixels, and nodes run together. */
export const thin = 1;

export function newRects(capacity = 1024): Rects {
  return {
    count: 0,
    x: new Float32Array(capacity),
    y: new Float32Array(capacity),
    width: new Float32Array(capacity),
    node: new Uint32Array(capacity),
    kind: new Uint8Array(capacity),
  };
}

/** Makes room for so many more. */
function reserve(r: Rects, more: number): void {
  if (r.count + more <= r.x.length) return;
  const grown = newRects(2 * (r.count + more));
  for (const column of ["x", "y", "width", "node", "kind"] as const) grown[column].set(r[column]);
  Object.assign(r, grown, { count: r.count });
}

function push(r: Rects, x: number, y: number, width: number, node: number, kind: number): void {
  reserve(r, 1);
  const i = r.count++;
  r.x[i] = x;
  r.y[i] = y;
  r.width[i] = width;
  r.node[i] = node;
  r.kind[i] = kind;
}

/** How many rows the whole graph has below the focus and above it. */
export function rowCount(t: Tree, v: Pick<View, "focus" | "above">): number {
  let deepest = t.depth[v.focus]!;
  for (let i = v.focus; i < t.end[v.focus]!; i++) {
    const d = t.depth[i]! + (t.prunedCount[i]! > 0 ? 1 : 0);
    if (d > deepest) deepest = d;
  }
  return v.above + deepest + 1;
}

/** The first index in [lo, hi) of what ends after `x`. */
function firstEndingAfter(to: Float64Array, lo: number, hi: number, x: number): number {
  while (lo < hi) {
    const mid = (lo + hi) >>> 1;
    if (to[mid]! > x) hi = mid;
    else lo = mid + 1;
  }
  return lo;
}

/** The same, for an answer that is near `lo`: doubling steps stay in the cache where halves of a long row would not. */
function nextEndingAfter(to: Float64Array, lo: number, hi: number, x: number): number {
  let step = 1;
  let from = lo;
  while (from + step < hi && to[from + step - 1]! <= x) {
    from += step;
    step *= 2;
  }
  return firstEndingAfter(to, from, Math.min(hi, from + step), x);
}

/** Fills `out` with what is visible and returns it. */
export function layout(t: Tree, v: View, out: Rects): Rects {
  out.count = 0;
  const left = t.start[v.focus]!;
  const right = left + t.weight[v.focus]!;
  const scale = right > left ? v.width / (right - left) : 0;
  const focusDepth = t.depth[v.focus]!;
  const ancestors: number[] = [];
  for (let i = v.focus; i >= 0; i = t.parent[i]!) ancestors[t.depth[i]!] = i;

  const first = Math.max(0, Math.floor(v.scrollTop / v.rowHeight));
  const last = Math.min(v.rows - 1, Math.ceil((v.scrollTop + v.height) / v.rowHeight) - 1);
  for (let k = first; k <= last; k++) {
    const y = k * v.rowHeight - v.scrollTop;
    const row = flip(v, k);
    const d = row - v.above;
    if (d > t.maxDepth + 1) continue;
    if (d < 0) {
      push(out, 0, y, v.width, row, Kind.Above);
      continue;
    }
    if (d <= focusDepth) {
      push(out, 0, y, v.width, ancestors[d]!, d < focusDepth ? Kind.Ancestor : Kind.Node);
      continue;
    }
    if (scale === 0) continue;
    layoutRow(t.rows, d, Kind.Node, y, left, right, scale, out);
    layoutRow(t.prunedRows, d, Kind.Pruned, y, left, right, scale, out);
  }
  return out;
}

/** Fills `out` with what [left, right) of the axis shows of the row of depth d. */
function layoutRow(rows: Rows, d: number, kind: number, y: number, left: number, right: number, scale: number, out: Rects): void {
  const { from, to } = rows;
  const end = rows.begin[d + 1]!;
  let k = firstEndingAfter(to, rows.begin[d]!, end, left);
  // Two neighbours are never within one pixel: they would have run together.
  reserve(out, Math.min(end - k, 2 * Math.ceil((right - left) * scale / thin) + 2));
  let i = out.count;
  while (k < end && from[k]! < right) {
    const start = from[k]!;
    let width = (to[k]! - start) * scale;
    let after = k + 1;
    if (width < thin) {
      // A run: all that ends within the next pixel.
      after = nextEndingAfter(to, after, end, start + thin / scale);
      width = Math.max((Math.min(right, to[after - 1]!) - start) * scale, thin / 2);
    }
    out.x[i] = (start - left) * scale;
    out.y[i] = y;
    out.width[i] = width;
    out.node[i] = rows.node[k]!;
    out.kind[i] = kind === Kind.Node && after > k + 1 ? Kind.Run : kind;
    i++;
    k = after;
  }
  out.count = i;
}

export interface Hit {
  node: number;
  kind: number;
}

/** What lies at a point of the viewport. */
export function hit(t: Tree, v: View, x: number, y: number): Hit | null {
  const row = flip(v, Math.floor((y + v.scrollTop) / v.rowHeight));
  if (row < 0 || x < 0 || x >= v.width) return null;
  const d = row - v.above;
  if (d < 0) return { node: row, kind: Kind.Above };
  const focusDepth = t.depth[v.focus]!;
  if (d <= focusDepth) {
    let i = v.focus;
    while (t.depth[i]! > d) i = t.parent[i]!;
    return { node: i, kind: d < focusDepth ? Kind.Ancestor : Kind.Node };
  }
  if (d > t.maxDepth + 1) return null;
  const at = t.start[v.focus]! + (x / v.width) * t.weight[v.focus]!;
  const found = nodeAt(t.rows, d, at);
  if (found >= 0) return { node: found, kind: Kind.Node };
  const parent = nodeAt(t.prunedRows, d, at);
  return parent >= 0 ? { node: parent, kind: Kind.Pruned } : null;
}

/** The node that covers a point of the axis in the row of depth d; -1 for none. */
function nodeAt(rows: Rows, d: number, x: number): number {
  const end = rows.begin[d + 1]!;
  const k = firstEndingAfter(rows.to, rows.begin[d]!, end, x);
  return k < end && rows.from[k]! <= x ? rows.node[k]! : -1;
}
