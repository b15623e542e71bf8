// Profiles without a server: pprof and folded files to the same columns and rows that the Go side makes of them
// (flamegraph.FromProfile, Build and Top), against whose goldens the tests hold this. Pure: runs in the worker.

import type { FlameGraph, Top, TopRow } from "../wire";

export interface ValueType {
  type: string;
  unit: string;
}

interface Frame {
  name: string;
  binary: string;
  file: string;
}

/** What a file holds: stacks, outermost frame first, each with a value for each type. */
export interface Profile {
  types: ValueType[];
  /** The type that the file wants to be seen first. */
  preferred: number;
  samples: { stack: readonly Frame[]; values: number[] }[];
}

/** Reads an inflated file of either format. Throws an Error that says what is wrong. */
export function readProfile(bytes: Uint8Array): Profile {
  // A pprof file begins with a field of its message: a control character. A folded one is text.
  return bytes.length > 0 && bytes[0]! < 0x20 && bytes[0] !== 0x0a ? readPprof(bytes) : looksLikeText(bytes) ? readFolded(new TextDecoder().decode(bytes)) : readPprof(bytes);
}

function looksLikeText(bytes: Uint8Array): boolean {
  return bytes.subarray(0, 512).every((b) => b >= 0x20 || b === 0x0a || b === 0x0d || b === 0x09);
}

export function readFolded(text: string): Profile {
  const frames = new Map<string, Frame>();
  const samples: Profile["samples"] = [];
  text.split("\n").forEach((raw, i) => {
    const line = raw.trim();
    if (line === "" || line.startsWith("#")) return;
    const m = /^(.*)\s+(\d+)$/.exec(line);
    if (!m) throw new Error(`line ${i + 1} is no stack and number: this is neither a pprof nor a folded file`);
    const stack = m[1]!.split(";").map((name) => {
      let frame = frames.get(name);
      if (!frame) frames.set(name, (frame = { name, binary: "", file: "" }));
      return frame;
    });
    samples.push({ stack, values: [Number(m[2])] });
  });
  if (samples.length === 0) throw new Error("the file has no stacks");
  return { types: [{ type: "samples", unit: "count" }], preferred: 0, samples };
}

/** Fields of profile.proto, in the order in which they are met. */
export function readPprof(bytes: Uint8Array): Profile {
  const strings: string[] = [];
  const types: [number, number][] = [];
  const samples: { locations: number[]; values: number[] }[] = [];
  const mappings = new Map<number, number>();
  const locations = new Map<number, { mapping: number; address: bigint; functions: number[] }>();
  const functions = new Map<number, { name: number; file: number }>();
  let preferred = 0;
  const text = new TextDecoder();
  message(bytes, (field, n, body) => {
    switch (field) {
      case 1: {
        const type: [number, number] = [0, 0];
        message(body, (f, v) => { if (f === 1 || f === 2) type[f - 1] = Number(v); });
        types.push(type);
        break;
      }
      case 2: {
        const sample = { locations: [] as number[], values: [] as number[] };
        message(body, (f, v, packed) => {
          const into = f === 1 ? sample.locations : f === 2 ? sample.values : null;
          if (!into) return;
          if (packed.length === 0) into.push(Number(BigInt.asIntN(64, v)));
          else for (const r = new Reader(packed); !r.done(); ) into.push(r.number());
        });
        samples.push(sample);
        break;
      }
      case 3: {
        let [id, file] = [0, 0];
        message(body, (f, v) => { if (f === 1) id = Number(v); else if (f === 5) file = Number(v); });
        mappings.set(id, file);
        break;
      }
      case 4: {
        const location = { mapping: 0, address: 0n, functions: [] as number[] };
        let id = 0;
        message(body, (f, v, line) => {
          if (f === 1) id = Number(v);
          else if (f === 2) location.mapping = Number(v);
          else if (f === 3) location.address = v;
          else if (f === 4) {
            let fn = 0;
            message(line, (g, w) => { if (g === 1) fn = Number(w); });
            location.functions.push(fn);
          }
        });
        locations.set(id, location);
        break;
      }
      case 5: {
        let [id, name, file] = [0, 0, 0];
        message(body, (f, v) => { if (f === 1) id = Number(v); else if (f === 2) name = Number(v); else if (f === 4) file = Number(v); });
        functions.set(id, { name, file });
        break;
      }
      case 6:
        strings.push(text.decode(body));
        break;
      case 14:
        preferred = Number(n);
    }
  });
  if (types.length === 0) throw new Error("the profile has no sample type: this is neither a pprof nor a folded file");
  const string = (i: number) => {
    if (i >= strings.length) throw new Error(`the profile names string ${i} of ${strings.length}`);
    return strings[i]!;
  };
  const known = new Map<number, Frame[]>();
  const framesOf = (id: number): Frame[] => {
    let frames = known.get(id);
    if (frames) return frames;
    const location = locations.get(id);
    if (!location) throw new Error(`a sample has location ${id}, which is not in the profile`);
    const binary = location.mapping === 0 ? "" : string(mappings.get(location.mapping) ?? 0);
    if (location.functions.length === 0) {
      const address = `0x${location.address.toString(16)}`;
      frames = [{ name: binary === "" ? address : `${binary.slice(binary.lastIndexOf("/") + 1)}+${address}`, binary, file: "" }];
    } else {
      frames = location.functions.map((fn) => {
        const f = functions.get(fn) ?? { name: 0, file: 0 };
        return { name: string(f.name), binary, file: string(f.file) };
      }).reverse();
    }
    known.set(id, frames);
    return frames;
  };
  const list = types.map(([type, unit]) => ({ type: string(type), unit: string(unit) }));
  const wanted = list.findIndex((t) => preferred > 0 && t.type === string(preferred));
  return {
    types: list,
    preferred: wanted < 0 ? list.length - 1 : wanted,
    samples: samples.map((s) => {
      if (s.values.length !== list.length) throw new Error(`a sample has ${s.values.length} values for ${list.length} types`);
      return { stack: s.locations.reverse().flatMap(framesOf), values: s.values };
    }),
  };
}

class Reader {
  private at = 0;
  constructor(private readonly bytes: Uint8Array) {}

  done(): boolean {
    return this.at >= this.bytes.length;
  }

  /** A varint as a signed 64-bit number, exact within 2^53. */
  number(): number {
    let value = 0;
    let scale = 1;
    const start = this.at;
    for (;;) {
      const b = this.bytes[this.at++];
      if (b === undefined) throw new Error("the profile ends too early");
      value += (b & 0x7f) * scale;
      scale *= 0x80;
      if (b < 0x80) break;
    }
    if (value <= Number.MAX_SAFE_INTEGER) return value;
    this.at = start;
    return Number(BigInt.asIntN(64, this.big()));
  }

  big(): bigint {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const b = this.bytes[this.at++];
      if (b === undefined || shift > 63n) throw new Error("the profile ends too early");
      value |= BigInt(b & 0x7f) << shift;
      if (b < 0x80) return value;
    }
  }

  take(n: number): Uint8Array {
    if (n < 0 || n > this.bytes.length - this.at) throw new Error("the profile ends too early");
    return this.bytes.subarray(this.at, (this.at += n));
  }
}

const none = new Uint8Array(0);

/** Calls `on` for each field of a protobuf message: a number, or bytes. */
function message(bytes: Uint8Array, on: (field: number, value: bigint, body: Uint8Array) => void): void {
  const r = new Reader(bytes);
  while (!r.done()) {
    const key = r.number();
    const field = Math.floor(key / 8);
    switch (key % 8) {
      case 0:
        on(field, r.big(), none);
        break;
      case 1:
        r.take(8);
        break;
      case 2:
        on(field, 0n, r.take(r.number()));
        break;
      case 5:
        r.take(4);
        break;
      default:
        throw new Error(`field ${field} has wire type ${key % 8}: this is neither a pprof nor a folded file`);
    }
  }
}

interface Node {
  frame: number;
  self: number;
  total: number;
  kids: Map<number, Node> | null;
}

/** Makes the call tree and the table of one type's values. Throws if a value is negative. */
export function build(p: Profile, type: number): { graph: FlameGraph; top: Top } {
  const ids = new Map<string, number>();
  const frames: Frame[] = [];
  const numbers = new Map<Frame, number>();
  const idOf = (f: Frame) => {
    let id = numbers.get(f);
    if (id !== undefined) return id;
    const key = `${f.name}\0${f.binary}`;
    id = ids.get(key);
    if (id === undefined) {
      id = frames.length;
      ids.set(key, id);
      frames.push({ ...f });
    } else if (f.file !== "" && (frames[id]!.file === "" || f.file < frames[id]!.file)) frames[id]!.file = f.file;
    numbers.set(f, id);
    return id;
  };
  const root: Node = { frame: -1, self: 0, total: 0, kids: null };
  const rows = new Map<string, TopRow>();
  const inBinary = new Map<number, number>();
  const row = (id: number) => {
    const { name } = frames[id]!;
    let r = rows.get(name);
    if (!r) rows.set(name, (r = { function: name, binary: "", file: "", self: 0, total: 0 }));
    return r;
  };
  for (const { stack, values } of p.samples) {
    const value = values[type]!;
    if (value < 0) throw new Error("a sample has a negative value: this is a difference of profiles, open the profiles themselves");
    if (value === 0) continue;
    let node = root;
    root.total += value;
    const seen = new Set<string>();
    for (const frame of stack) {
      const id = idOf(frame);
      node.kids ??= new Map();
      let kid = node.kids.get(id);
      if (!kid) node.kids.set(id, (kid = { frame: id, self: 0, total: 0, kids: null }));
      kid.total += value;
      node = kid;
      if (seen.has(frame.name)) continue;
      seen.add(frame.name);
      row(id).total += value;
      inBinary.set(id, (inBinary.get(id) ?? 0) + value);
    }
    node.self += value;
    if (node !== root) row(node.frame).self += value;
  }
  const heaviest = new Map<string, number>();
  for (const [id, value] of inBinary) {
    const f = frames[id]!;
    const r = row(id);
    const best = heaviest.get(f.name) ?? -1;
    if (value > best || (value === best && f.binary < r.binary)) {
      heaviest.set(f.name, value);
      r.binary = f.binary;
      r.file = f.file;
    }
  }
  const unit = p.types[type]!.unit;
  const order = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0);
  const list = [...rows.values()].sort((a, b) => b.self - a.self || b.total - a.total || order(a.function, b.function));
  return { graph: columns(root, frames, unit), top: { unit, total: root.total, rows: list, profiles: 1, damaged: 0 } };
}

function columns(root: Node, frames: readonly Frame[], unit: string): FlameGraph {
  const g: FlameGraph = { unit, total: root.total, names: ["total"], files: [0], file_names: [""], depth: [], name: [], self: [], pruned_count: [], pruned_value: [] };
  const names = new Map<number, number>([[-1, 0]]);
  const files = new Map([["", 0]]);
  const order = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0);
  // Not by recursion: stacks may be deeper than the engine's own.
  const waiting: [Node, number][] = [[root, 0]];
  for (let next = waiting.pop(); next; next = waiting.pop()) {
    const [node, depth] = next;
    let name = names.get(node.frame);
    if (name === undefined) {
      const f = frames[node.frame]!;
      name = g.names.length;
      names.set(node.frame, name);
      g.names.push(f.name);
      let file = files.get(f.binary);
      if (file === undefined) {
        file = g.file_names.length;
        files.set(f.binary, file);
        g.file_names.push(f.binary);
      }
      g.files.push(file);
    }
    g.depth.push(depth);
    g.name.push(name);
    g.self.push(node.self);
    g.pruned_count.push(0);
    g.pruned_value.push(0);
    const kids = [...(node.kids?.values() ?? [])].sort((a, b) => {
      const [fa, fb] = [frames[a.frame]!, frames[b.frame]!];
      return a.total - b.total || order(fb.name, fa.name) || order(fb.binary, fa.binary);
    });
    for (const kid of kids) waiting.push([kid, depth + 1]);
  }
  return g;
}
