import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { decodeColumns } from "../../src/flame/columns";
import { build, readFolded, readProfile } from "../../src/flame/profile";
import { decode } from "../../src/flame/tree";
import type { FlameGraph, Top } from "../../src/wire";

const testdata = new URL("../../../profilestore/flamegraph/testdata/", import.meta.url);

describe("a local file is what the server makes of it", () => {
  const goldens = JSON.parse(readFileSync(new URL("local.json", testdata), "utf8")) as { graph: FlameGraph; top: Top }[];
  const profile = readProfile(gunzipSync(readFileSync(new URL("local.pb.gz", testdata))));
  test("its types", () => {
    expect(profile.types.map((t) => t.unit)).toEqual(goldens.map((g) => g.graph.unit));
    expect(profile.preferred).toBe(1);
  });
  test.each([0, 1])("type %i: graph and table", (type) => {
    const own = build(profile, type);
    expect(own.graph).toEqual(goldens[type]!.graph);
    const { profiles: _p, damaged: _d, ...top } = own.top;
    expect(top).toEqual(goldens[type]!.top);
  });
  test("exports of the Go side can be opened", () => {
    const { graph } = build(readProfile(readFileSync(new URL("export.folded", testdata))), 0);
    expect(graph.total).toBe(10);
    expect(graph.names).toEqual(["total", "main", "vector<int>::push&back", "a", "b", "[jit]"]);
  });
});

describe("what is no profile", () => {
  test.each<[string, Uint8Array, RegExp]>([
    ["text", new TextEncoder().encode("hello world"), /line 1 is no stack/],
    ["nothing", new Uint8Array(0), /no stacks/],
    ["another binary", Uint8Array.of(0x7f, 0x45, 0x4c, 0x46, 0, 0), /wire type|too early/],
    ["half a profile", gunzipSync(readFileSync(new URL("local.pb.gz", testdata))).subarray(0, 500), /./],
  ])("%s", (_, bytes, message) => expect(() => readProfile(bytes)).toThrow(message));
  test("folded with spaces in names", () => {
    expect(readFolded("a b;c 3\n\n# comment\n").samples).toEqual([{ stack: [{ name: "a b", binary: "", file: "" }, { name: "c", binary: "", file: "" }], values: [3] }]);
  });
});

describe("columns", () => {
  const varint = (n: number): number[] => (n < 0x80 ? [n] : [(n % 0x80) | 0x80, ...varint(Math.floor(n / 0x80))]);
  const text = (s: string) => [s.length, ...new TextEncoder().encode(s)];
  // main calls a twice as costly as 2^40; one function was pruned below a.
  const bytes = [1, 1, ...text("ns"), ...varint(2 ** 41 + 5), 3, ...text("total"), ...text("main"), ...text("a"), 0, 1, 1, 2, ...text(""), ...text("app"),
    3, 0, 2, 2, 0, 1, 2, 0, 0, 1, 0, 0, ...varint(2 ** 41), 0, 0, 5];
  test("are read", () => {
    const t = decode(decodeColumns(Uint8Array.from(bytes)));
    expect([...t.total]).toEqual([2 ** 41 + 5, 2 ** 41 + 5, 2 ** 41 + 5]);
    expect([...t.depth]).toEqual([0, 1, 2]);
    expect(t.names).toEqual(["total", "main", "a"]);
  });
  test("that are cut off or too long are refused", () => {
    for (let n = 0; n < bytes.length; n++) expect(() => decodeColumns(Uint8Array.from(bytes.slice(0, n)))).toThrow(/columns/);
    expect(() => decodeColumns(Uint8Array.from([...bytes, 0]))).toThrow(/1 bytes too many/);
    expect(() => decodeColumns(Uint8Array.from([2, ...bytes.slice(1)]))).toThrow(/version 2/);
  });
});
