import { describe, expect, test } from "vitest";
import { hit, Kind, layout, newRects, rowCount, thin, type Rects, type View } from "../../src/flame/layout";
import { decode, type Tree } from "../../src/flame/tree";
import { example, random, randomGraph } from "./trees";

const view = (patch: Partial<View> = {}): View => ({ focus: 0, above: 0, width: 1000, height: 2000, scrollTop: 0, rowHeight: 20, rows: 10000, flipped: false, ...patch });

function list(r: Rects) {
  return Array.from({ length: r.count }, (_, i) => ({ x: r.x[i]!, y: r.y[i]!, width: r.width[i]!, node: r.node[i]!, kind: r.kind[i]! }));
}

describe("layout", () => {
  test("the example of the contract", () => {
    const rects = list(layout(decode(example()), view(), newRects()));
    expect(rects).toEqual([
      { x: 0, y: 0, width: 1000, node: 0, kind: Kind.Node },
      { x: 0, y: 20, width: 1000, node: 1, kind: Kind.Node },
      { x: 0, y: 40, width: 700, node: 2, kind: Kind.Node },
      { x: 700, y: 40, width: 200, node: 4, kind: Kind.Node },
      { x: 0, y: 60, width: 600, node: 3, kind: Kind.Node },
      { x: 0, y: 80, width: 200, node: 3, kind: Kind.Pruned },
    ]);
  });

  test("zoomed: the focus fills the width, its callers too", () => {
    const rects = list(layout(decode(example()), view({ focus: 2 }), newRects()));
    expect(rects.map((r) => [r.node, r.kind, Math.round(r.width)])).toEqual([
      [0, Kind.Ancestor, 1000], [1, Kind.Ancestor, 1000], [2, Kind.Node, 1000], [3, Kind.Node, 857], [3, Kind.Pruned, 286],
    ]);
  });

  test("rows above the root of a subtree", () => {
    const rects = list(layout(decode(example()), view({ above: 2 }), newRects()));
    expect(rects.slice(0, 3).map((r) => [r.node, r.kind, r.y])).toEqual([[0, Kind.Above, 0], [1, Kind.Above, 20], [0, Kind.Node, 40]]);
  });

  test("only rows in the viewport", () => {
    const rects = list(layout(decode(example()), view({ scrollTop: 30, height: 25 }), newRects()));
    expect(rects.map((r) => [r.node, r.y])).toEqual([[1, -10], [2, 10], [4, 10]]);
  });

  test("a graph without samples", () => {
    const g = example();
    g.self.fill(0);
    g.pruned_count.fill(0);
    g.pruned_value.fill(0);
    expect(list(layout(decode(g), view(), newRects())).map((r) => r.node)).toEqual([0]);
  });

  test.each([1, 2, 3, 4])("a random tree against the plain way, seed %i", (seed) => {
    const t = decode(randomGraph(seed, 5000));
    const next = random(seed);
    for (const focus of [0, 1, Math.floor(next() * t.count)]) {
      const v = view({ focus });
      const rects = list(layout(t, v, newRects(4)));
      const scale = v.width / t.total[focus]!;
      const drawn = new Set(rects.filter((r) => r.kind === Kind.Node).map((r) => r.node));
      const drawnPruned = new Set(rects.filter((r) => r.kind === Kind.Pruned).map((r) => r.node));
      for (let i = focus; i < t.end[focus]!; i++) {
        if (t.total[i]! * scale >= thin) expect(drawn.has(i)).toBe(true);
        if (t.prunedValue[i]! * scale >= thin) expect(drawnPruned.has(i)).toBe(true);
      }
      for (const r of rects) {
        expect(r.x).toBeGreaterThanOrEqual(0);
        expect(r.x + r.width).toBeLessThanOrEqual(v.width + thin);
      }
      // However many nodes, a row has no more rectangles than twice its pixels (nodes, and pruned ones).
      const perRow = new Map<number, number>();
      for (const r of rects) perRow.set(r.y, (perRow.get(r.y) ?? 0) + 1);
      expect(Math.max(...perRow.values())).toBeLessThanOrEqual(2 * v.width + 2);
    }
  });
});

describe("hit", () => {
  test("nodes, pruned, own value, ancestors", () => {
    const t = decode(example());
    expect(hit(t, view(), 5, 5)).toEqual({ node: 0, kind: Kind.Node });
    expect(hit(t, view(), 710, 45)).toEqual({ node: 4, kind: Kind.Node });
    expect(hit(t, view(), 950, 45)).toBeNull();
    expect(hit(t, view(), 100, 85)).toEqual({ node: 3, kind: Kind.Pruned });
    expect(hit(t, view(), 300, 85)).toBeNull();
    expect(hit(t, view(), 5, 500)).toBeNull();
    expect(hit(t, view({ focus: 3 }), 999, 25)).toEqual({ node: 1, kind: Kind.Ancestor });
    expect(hit(t, view({ above: 3 }), 9, 45)).toEqual({ node: 2, kind: Kind.Above });
  });

  test("agrees with layout on a random tree", () => {
    const t: Tree = decode(randomGraph(7, 2000));
    for (const r of list(layout(t, view(), newRects()))) {
      if (r.kind === Kind.Run || r.width < 2) continue;
      const found = hit(t, view(), r.x + r.width / 2, r.y + 10);
      expect(found).toEqual({ node: r.node, kind: r.kind });
    }
  });
});

test("rowCount counts pruned rows", () => {
  const t = decode(example());
  expect(rowCount(t, { focus: 0, above: 0 })).toBe(5);
  expect(rowCount(t, { focus: 4, above: 1 })).toBe(4);
  expect([...t.prunedRows.from, ...t.prunedRows.to]).toEqual([0, 2]);
});
