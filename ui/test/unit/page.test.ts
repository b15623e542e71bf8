import { describe, expect, test } from "vitest";
import { colorOf, isKernel, packageOf, palette, rootColor, seriesColors, truncatedColor, unnamedColor } from "../../src/flame/color";
import { lastName, shortName } from "../../src/flame/draw";
import { count, percent, value } from "../../src/format";
import { losses } from "../../src/losses";
import { and, complete, completionAt, equals } from "../../src/selector";
import { grid, largest, latest, rate, stepFor } from "../../src/series";

describe("selector completion", () => {
  // "|" is the caret.
  test.each<[string, string | null]>([
    ["|", "name :"],
    ["{|", "name :"],
    ["{serv|", "name :serv"],
    ['{a="x", co|', "name :co"],
    ['{a="x", co|mm="y"}', "name :co"],
    ['{a="|', "value a:"],
    ['{a=~"x|y"}', "value a:x"],
    ['{a="q\\"|', 'value a:q\\"'],
    ['{a="x", b!="y|"}', "value b:y"],
    ['{a="x"}|', null],
    ["nonsense|", null],
  ])("%s", (marked, want) => {
    const caret = marked.indexOf("|");
    const at = completionAt(marked.replace("|", ""), caret);
    expect(at && `${at.kind} ${at.label}:${at.prefix}`).toBe(want);
  });
  test.each<[string, string, string]>([
    ["|", "comm", '{comm="|"}'],
    ["{co|}", "comm", '{comm="|"}'],
    ['{co|mm="y"}', "comm", '{comm|="y"}'],
    ['{a="|"}', 'x"y', '{a="x\\"y"|}'],
    ['{a="|', "x", '{a="x"|}'],
  ])("%s with %s", (marked, choice, want) => {
    const caret = marked.indexOf("|");
    const text = marked.replace("|", "");
    const at = completionAt(text, caret);
    expect(at).not.toBeNull();
    const done = complete(text, at!, choice);
    expect(done.text.slice(0, done.caret) + "|" + done.text.slice(done.caret)).toBe(want);
  });
  test.each([["{}", '{a="b"}'], ["", '{a="b"}'], ['{x="}"}', '{x="}", a="b"}'], ['{x="y",}', '{x="y", a="b"}'], ['{x="y",a="b"}', '{x="y",a="b"}'], ['{aa="b"}', '{aa="b", a="b"}']])("%s and one more", (q, want) => {
    expect(and(q, "a", "b")).toBe(want);
  });
  test("equals quotes", () => {
    expect(equals("a", 'x"\\')).toBe('{a="x\\"\\\\"}');
  });
});

describe("series", () => {
  const answer = {
    unit: "nanoseconds", step_ms: 10000,
    series: [
      { labels: { s: "small" }, points: [[10000, 1e9]] as [number, number][] },
      { labels: { s: "big" }, points: [[10000, 20e9], [30000, 5e9], [90000, 1e9]] as [number, number][] },
    ],
  };
  test("cores on a common grid, largest first, without the unfinished step", () => {
    const g = grid(answer, 12000, 45000, "s");
    expect(g.times).toEqual([10000, 20000, 30000]);
    expect(g.lines.map((l) => [l.label, [...l.values]])).toEqual([["big", [2, 0, 0.5]], ["small", [0.1, 0, 0]]]);
  });
  test("the rest is one line", () => {
    const lines = [5, 3, 2, 1].map((n) => ({ label: String(n), values: Float64Array.of(n), sum: n }));
    expect(largest(lines, 2).map((l) => [l.label, l.sum, l.values[0]])).toEqual([["5", 5, 5], ["3 others", 6, 6]]);
    expect(largest(lines, 4)).toBe(lines);
  });
  test("the latest rates are of the step before the newest, if there is one", () => {
    const of = (a: [number, number][], b: [number, number][]) =>
      latest({ unit: "nanoseconds", step_ms: 10e3, series: [{ labels: { s: "a" }, points: a }, { labels: { s: "b" }, points: b }] }, "s");
    expect([...of([[10e3, 20e9], [20e3, 1e9]], [[0, 7e9]])]).toEqual([["a", 2], ["b", 0]]);
    expect([...of([[10e3, 5e9]], [])]).toEqual([["a", 0.5], ["b", 0]]);
    expect([...of([], [])]).toEqual([["a", 0], ["b", 0]]);
  });
  test("steps are whole windows", () => {
    expect(stepFor(0, 900e3, 300)).toBe(10);
    expect(stepFor(0, 3600e3, 300)).toBe(20);
    expect(stepFor(0, 7 * 86400e3, 300)).toBe(3600);
    for (const hours of [1, 5, 30, 500, 9000]) expect(stepFor(0, hours * 3600e3, 300) % 10).toBe(0);
    expect(rate(30, "count", 10000)).toBe(3);
  });
});

describe("colours", () => {
  test("packages", () => {
    expect(["net/http.(*conn).serve", "std::vector<a::b>::push", "main.main", "memcpy", "(anonymous namespace)::ns::f", "runtime.goexit.abi0"].map(packageOf))
      .toEqual(["net/http", "std", "main", "", "ns", "runtime"]);
  });
  test("special frames", () => {
    expect(colorOf("total", "", "binary")).toBe(rootColor);
    expect(colorOf("[truncated: no table]", "x", "binary")).toBe(truncatedColor);
    expect(colorOf("libfoo.so+0x12ab", "libfoo.so", "binary")).toBe(unnamedColor);
    expect([isKernel("[kernel.kallsyms]"), isKernel("[xfs]"), isKernel("[vdso]"), isKernel("[jit]"), isKernel("/bin/a")]).toEqual([true, true, false, false, false]);
  });
  test("one binary has one hue, whatever the function", () => {
    const hue = (name: string) => palette(false).fill[colorOf(name, "/bin/app", "binary")]!.split(" ")[2];
    const seen = ["a", "b.c", "d::e", "f", "g/h.i"].map((name) => Number.parseFloat(hue(name) ?? ""));
    expect(Math.max(...seen) - Math.min(...seen)).toBeLessThanOrEqual(20);
  });
  test("every index has a fill, in both themes", () => {
    for (const dark of [false, true]) expect([...palette(dark).fill].every(Boolean)).toBe(true);
  });
  test("lines of a chart differ, and keep their colour when others come", () => {
    const one = seriesColors(["api"], false);
    const many = seriesColors(["api", "b", "c", "d", "e", "f", "g", "h", "i"], false);
    expect(many[0]).toBe(one[0]);
    expect(new Set(many).size).toBe(9);
  });
});

test.each([
  ["net/http.(*conn).serve", "http.(*conn).serve"], ["std::foo::bar", "bar"], ["memcpy", "memcpy"],
  ["a::b<c::d>::e(f::g)", "b<c::d>::e(f::g)"], ["github.com/a/b.(*T[go.shape.int]).M", "b.(*T[go.shape.int]).M"],
])("shortName(%s)", (name, want) => expect(shortName(name)).toBe(want));

test.each<[string, string]>([
  [value(0, "nanoseconds"), "0 s"], [value(1.5e9, "nanoseconds"), "1.50 s"], [value(90e9, "nanoseconds"), "90.0 s"], [value(1200e9, "nanoseconds"), "20.0 min"], [value(7200e9 * 12, "nanoseconds"), "24.0 h"],
  [value(2500, "nanoseconds"), "2.50 µs"], [value(12345, "count"), "12.3 k"], [count(9999), "9999"],
  [percent(1, 3), "33.3 %"], [percent(0, 3), "0 %"], [percent(1, 1e6), "<0.01 %"], [percent(99999, 100000), ">99.9 %"], [percent(3, 3), "100 %"], [percent(1, 0), "–"],
])("%s", (got, want) => expect(got.replaceAll("\u202f", " ")).toBe(want));

test("losses: dropped are missed, anything not whole is truncated", () => {
  const account = { samples_taken: 100, samples_missed: 5, outcomes: { complete: 80, kernel_only: 5, no_table: 9, jit_end: 2, dropped_ring: 4 }, frames: 0, frames_unnamed: 0, unfinished: 0, finished: 0, agent_cpu_seconds: 0, bpf_run_seconds: 0 };
  expect(losses([account, { ...account, outcomes: null }])).toEqual({ taken: 200, due: 210, missed: 14, truncated: 11, reasons: [["no_table", 9], ["jit_end", 2]] });
});

test.each([
  ["http.(*conn).serve", "serve"], ["b.(*T[go.shape.int]).M", "M"], ["main.main", "main"], ["http.serve.func1", "serve.func1"],
  ["memcpy", "memcpy"], ["libfoo.so+0x12", "libfoo.so+0x12"], ["b<c::d>::e(f::g)", "b<c::d>::e(f::g)"], ["[truncated: no table]", "[truncated: no table]"],
])("lastName(%s)", (name, want) => expect(lastName(name)).toBe(want));
