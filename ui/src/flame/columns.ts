// The compact form of a flame graph: varints, one column after the other, as flamegraph.AppendColumns writes
// it. Pure: runs in the worker.

import type { FlameGraph } from "../wire";

export const columnsType = "application/x-pilotlight-columns";

/** Reads a flame graph. Throws an Error that says what is wrong with the bytes. */
export function decodeColumns(bytes: Uint8Array): FlameGraph<ArrayLike<number>> {
  const r = new Reader(bytes);
  const version = r.byte();
  if (version !== 1) throw new Error(`columns: version ${version}, this page knows 1: reload it`);
  const sides = r.byte();
  if (sides < 1 || sides > 2) throw new Error(`columns: ${sides} sides`);
  const unit = r.string();
  const total = r.number();
  const totalB = sides === 2 ? r.number() : undefined;
  const names = r.strings();
  const files = r.numbers(new Uint32Array(names.length));
  const fileNames = r.strings();
  const n = r.count(5);
  const depth = new Int32Array(n);
  let d = 0;
  for (let i = 0; i < n; i++) {
    const zigzag = r.number();
    d += zigzag % 2 === 0 ? zigzag / 2 : -(zigzag + 1) / 2;
    depth[i] = d;
  }
  const g: FlameGraph<ArrayLike<number>> = {
    unit, total, names, files, file_names: fileNames, depth,
    name: r.numbers(new Uint32Array(n)), pruned_count: r.numbers(new Uint32Array(n)),
    self: r.numbers(new Float64Array(n)), pruned_value: r.numbers(new Float64Array(n)),
  };
  if (totalB !== undefined) {
    g.total_b = totalB;
    g.self_b = r.numbers(new Float64Array(n));
    g.pruned_value_b = r.numbers(new Float64Array(n));
  }
  r.end();
  return g;
}

class Reader {
  private at = 0;
  private readonly text = new TextDecoder();

  constructor(private readonly bytes: Uint8Array) {}

  byte(): number {
    if (this.at >= this.bytes.length) throw new Error("columns: the answer ends too early");
    return this.bytes[this.at++]!;
  }

  /** An unsigned varint, as a double: exact up to 2^53. */
  number(): number {
    let b = this.byte();
    if (b < 0x80) return b;
    let value = b & 0x7f;
    for (let scale = 0x80; ; scale *= 0x80) {
      b = this.byte();
      value += (b & 0x7f) * scale;
      if (b < 0x80) return value;
      if (scale > 2 ** 63) throw new Error("columns: a number is too large");
    }
  }

  numbers<T extends Uint32Array | Float64Array>(out: T): T {
    for (let i = 0; i < out.length; i++) out[i] = this.number();
    return out;
  }

  /** A number of things of at least `size` bytes each, no more than can follow. */
  count(size: number): number {
    const n = this.number();
    if (n * size > this.bytes.length - this.at) throw new Error(`columns: ${n} things cannot follow`);
    return n;
  }

  string(): string {
    const n = this.count(1);
    return this.text.decode(this.bytes.subarray(this.at, (this.at += n)));
  }

  strings(): string[] {
    const out = new Array<string>(this.count(1));
    for (let i = 0; i < out.length; i++) out[i] = this.string();
    return out;
  }

  end(): void {
    if (this.at !== this.bytes.length) throw new Error(`columns: ${this.bytes.length - this.at} bytes too many`);
  }
}
