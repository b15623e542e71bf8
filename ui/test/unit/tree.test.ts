import { describe, expect, test } from "vitest";
import { decode, findPath, firstChild, hasPruned, nextSibling, pathOf, previousSibling } from "../../src/flame/tree";
import type { FlameGraph } from "../../src/wire";
import { example, randomGraph } from "./trees";

describe("decode", () => {
  test("the example of the contract", () => {
    const t = decode(example());
    expect([...t.total]).toEqual([10, 10, 7, 6, 2]);
    expect([...t.start]).toEqual([0, 0, 0, 0, 7]);
    expect([...t.parent]).toEqual([-1, 0, 1, 2, 1]);
    expect([...t.end]).toEqual([5, 5, 4, 4, 5]);
    expect([...t.rows.node]).toEqual([0, 1, 2, 4, 3]);
    expect([...t.rows.from]).toEqual([0, 0, 0, 7, 0]);
    expect([...t.rows.to]).toEqual([10, 10, 7, 9, 6]);
    expect([...t.prunedRows.node]).toEqual([3]);
    expect([...t.prunedRows.begin]).toEqual([0, 0, 0, 0, 0, 1]);
  });

  test.each([1, 2, 3])("sums and spans of a random tree, seed %i", (seed) => {
    const g = randomGraph(seed, 3000);
    const t = decode(g);
    expect(t.total[0]).toBe(g.total);
    const prunedFrom = new Map(Array.from(t.prunedRows.node, (node, k) => [node, t.prunedRows.from[k]]));
    for (let i = 0; i < t.count; i++) {
      let children = 0;
      let at = t.start[i]!;
      for (let c = firstChild(t, i); c >= 0; c = nextSibling(t, c)) {
        expect(t.parent[c]).toBe(i);
        expect(t.start[c]).toBe(at);
        at += t.total[c]!;
        children += t.total[c]!;
      }
      expect(t.total[i]).toBe(t.self[i]! + t.prunedValue[i]! + children);
      expect(prunedFrom.get(i)).toBe(t.prunedCount[i]! > 0 ? at : undefined);
    }
  });

  test("a stack 8,192 deep", () => {
    const n = 8193;
    const fill = (v: number) => new Array<number>(n).fill(v);
    const t = decode({ unit: "", total: 1, names: ["f"], files: [0], file_names: [""], depth: fill(0).map((_, i) => i), name: fill(0), self: fill(0).map((_, i) => (i === n - 1 ? 1 : 0)), pruned_count: fill(0), pruned_value: fill(0) });
    expect(t.maxDepth).toBe(8192);
    expect(t.total[0]).toBe(1);
  });

  test.each<[string, (g: FlameGraph) => void, RegExp]>([
    ["a short column", (g) => g.self.pop(), /self has 4 rows/],
    ["files and names differ", (g) => g.files.pop(), /4 files for 5 names/],
    ["a gap in depth", (g) => (g.depth[2] = 3), /node 2 has depth 3 after 1/],
    ["a second root", (g) => (g.depth[2] = 0), /node 2 has depth 0/],
    ["an unknown name", (g) => (g.name[2] = 9), /node 2 has name 9 of 5/],
    ["an unknown file", (g) => (g.files[2] = 9), /file 9 of 2/],
    ["no nodes", (g) => { for (const c of ["depth", "name", "self", "pruned_count", "pruned_value"] as const) g[c] = []; }, /no root/],
  ])("refuses %s", (_, spoil, message) => {
    const g = example();
    spoil(g);
    expect(() => decode(g)).toThrow(message);
  });
});

test("walking", () => {
  const t = decode(example());
  expect(nextSibling(t, 2)).toBe(4);
  expect(previousSibling(t, 4)).toBe(2);
  expect(previousSibling(t, 2)).toBe(-1);
  expect(nextSibling(t, 0)).toBe(-1);
  expect(firstChild(t, 4)).toBe(-1);
  expect(pathOf(t, 3)).toEqual(["main", "b", "c"]);
  expect(pathOf(t, 0)).toEqual([]);
  expect(findPath(t, ["main", "b", "c"])).toEqual({ node: 3, left: 0 });
  expect(findPath(t, ["main", "x", "y"])).toEqual({ node: 1, left: 2 });
  expect(hasPruned(t, 1)).toBe(true);
  expect(hasPruned(t, 4)).toBe(false);
});
