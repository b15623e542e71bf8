import { expect, test } from "vitest";
import { packTop, topBuffers, unpackTop } from "../../src/flame/top";
import type { Top } from "../../src/wire";

const row = { function: "f", binary: "/bin/a", file: "a.c", self: 1, total: 2 };

test.each<[string, Top]>([
  ["a table", { unit: "ns", total: 9, profiles: 3, damaged: 1, removed: [4], rows: [row, { ...row, function: "g", file: "" }, { ...row, function: "", binary: "" }] }],
  ["a diff", { unit: "ns", total: 9, total_b: 0, profiles: 3, damaged: 0, rows: [{ ...row, self_b: 0, total_b: 7 }, { ...row, function: "g", self_b: 5, total_b: 6 }] }],
  ["no rows", { unit: "ns", total: 0, profiles: 0, damaged: 0, rows: [] }],
])("%s comes out of its columns as it went in", (_, top) => {
  const packed = packTop(structuredClone(top));
  expect(unpackTop(structuredClone(packed, { transfer: topBuffers(packed) }))).toEqual(top);
});
