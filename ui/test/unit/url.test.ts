import { describe, expect, test } from "vitest";
import { defaults, format, formatPath, parse, parsePath, type State } from "../../src/url";
import { parseTime, unixSeconds } from "../../src/time";

describe("codec", () => {
  test("defaults are the empty string", () => {
    expect(format(defaults)).toBe("");
    expect(parse("")).toEqual({ state: defaults, notices: [] });
  });
  const full: State = {
    q: '{service_name="a&b=c", comm=~"x+.*"}', type: "process_cpu:samples:count:cpu:nanoseconds", from: "1763690400.5", to: "now-5m",
    sel: [1763690400, 1763690460.5], zoom: ["main", "a;b", "c\\d", "operator%"], name: "net/http.(*conn).serve", f: ["focus:a|b", "hide:^x&y$", "focus:a|b"], view: "sandwich", inv: true, table: false, norm: true,
    "b.q": "{a=\"b\"}", "b.from": "now-2h", "b.to": "now-1h", search: "^a|b #$", group: "comm",
    color: "package", sort: "function", refresh: "30s", theme: "dark",
  };
  test("every parameter survives", () => {
    expect(parse(format(full))).toEqual({ state: full, notices: [] });
  });
  test.each(Object.keys(full) as (keyof State)[])("%s alone survives", (key) => {
    const state = { ...defaults, [key]: full[key] };
    expect(parse(format(state))).toEqual({ state, notices: [] });
  });
  test.each([
    ["color=heat", /color=heat is not known.*binary, package/],
    ["theme=", /theme= is not known/],
    ["sort=size", /sort=size/],
    ["refresh=1s", /refresh=1s/],
    ["from=yesterday", /from=yesterday is not a time/],
    ["sel=9-3", /sel=9-3 is not a range/],
    ["sel=x", /sel=x/],
    ["f=focus:", /f=focus: is not a filter.*focus:, ignore:/],
    ["f=grow:x", /f=grow:x is not a filter/],
    ["inv=yes", /inv=yes is not known.*0, 1/],
    ["view=3d", /view=3d is not known.*flame, sandwich, table/],
    ["b.from=x", /b.from=x is not a time: using that of A/],
    ["bogus=1", /bogus is not known/],
  ])("%s gives a notice and the default", (query, notice) => {
    const { state, notices } = parse(query);
    expect(state).toEqual(defaults);
    expect(notices).toHaveLength(1);
    expect(notices[0]).toMatch(notice);
  });
});

test.each<[string[], string]>([
  [[], ""],
  [["main"], "main"],
  [["a;b", "c\\", "d"], "a\\;b;c\\\\;d"],
])("path %j", (path, text) => {
  expect(formatPath(path)).toBe(text);
  expect(parsePath(text)).toEqual(path);
});

test.each<[string, number | null]>([
  ["now", 1e12], ["now-90s", 1e12 - 90e3], ["now-15m", 1e12 - 900e3], ["now-1h", 1e12 - 3600e3], ["now-7d", 1e12 - 7 * 86400e3],
  ["1763690400.25", 1763690400250], ["2025-11-21T02:00:00Z", 1763690400000], ["2025-11-21T03:00:00+01:00", 1763690400000],
  ["now+1h", null], ["now-1w", null], ["", null], ["2025-11-21", null], ["-5", null],
])("parseTime(%j)", (text, want) => {
  expect(parseTime(text, 1e12)).toBe(want);
});

test("unixSeconds keeps milliseconds", () => {
  expect(unixSeconds(1763690400123.4)).toBe("1763690400.123");
});
