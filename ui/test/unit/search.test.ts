import { describe, expect, test } from "vitest";
import { compile, escapeRegex, matchedShare, matchNames, nextMatch } from "../../src/flame/search";
import { decode } from "../../src/flame/tree";
import { example, randomGraph } from "./trees";

describe("matchNames", () => {
  test.each<[string, string[], number[]]>([
    ["mem", ["memcpy", "Memory", "x"], [1, 1, 0]],
    ["Mem", ["memcpy", "Memory", "x"], [0, 1, 0]],
    ["^\\Sem", ["memcpy", "Memory", " em"], [1, 1, 0]],
    ["a|b$", ["cab", "bc", "x"], [1, 0, 0]],
  ])("%s", (pattern, names, want) => {
    expect([...matchNames(names, pattern)]).toEqual(want);
  });
  test("a bad pattern throws", () => {
    expect(() => compile("(")).toThrow(SyntaxError);
  });
  test("escaped names match themselves alone", () => {
    for (const name of ["net/http.(*conn).serve", "a[0]{x}+?^$|\\", "operator*="]) {
      expect([...matchNames([name, "x" + name], `^${escapeRegex(name)}$`)]).toEqual([1, 0]);
    }
  });
});

describe("matchedShare", () => {
  const t = decode(example());
  test("nested matches count once", () => {
    expect(matchedShare(t, matchNames(t.names, "^(main|b|c)$"), 0)).toEqual({ nodes: 3, value: 10 });
    expect(matchedShare(t, matchNames(t.names, "^(b|a)$"), 0)).toEqual({ nodes: 2, value: 9 });
    expect(matchedShare(t, matchNames(t.names, "^c$"), 4)).toEqual({ nodes: 0, value: 0 });
  });
  test("equals the plain way on a random tree", () => {
    const r = decode(randomGraph(5, 4000));
    const matched = matchNames(r.names, "f[123]");
    let want = 0;
    for (let i = 0; i < r.count; i++) {
      let outer = r.parent[i]!;
      while (outer >= 0 && !matched[r.name[outer]!]) outer = r.parent[outer]!;
      if (outer < 0 && matched[r.name[i]!]) want += r.total[i]!;
    }
    expect(want).toBeGreaterThan(0);
    expect(matchedShare(r, matched, 0).value).toBe(want);
  });
});

test("nextMatch goes round within the focus", () => {
  const t = decode(example());
  const matched = matchNames(t.names, "^(a|c)$");
  expect(nextMatch(t, matched, 0, 0, 1)).toBe(3);
  expect(nextMatch(t, matched, 0, 3, 1)).toBe(4);
  expect(nextMatch(t, matched, 0, 4, 1)).toBe(3);
  expect(nextMatch(t, matched, 0, 3, -1)).toBe(4);
  expect(nextMatch(t, matched, 2, 2, 1)).toBe(3);
  expect(nextMatch(t, new Uint8Array(t.names.length), 0, 0, 1)).toBe(-1);
});
