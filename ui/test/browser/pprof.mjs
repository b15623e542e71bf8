// Writes profiles in pprof's format (profile.proto): CPU samples, as the agent sends them.
// @ts-check

import { gzipSync } from "node:zlib";

/** @typedef {{ name: string, binary: string, file: string }} Frame */
/** @typedef {{ stack: Frame[], count: number, nanoseconds: number }} Sample outermost frame first */

/** @param {number} n @returns {number[]} */
function varint(n) {
  const out = [];
  while (n >= 0x80) {
    out.push((n % 0x80) | 0x80);
    n = Math.floor(n / 0x80);
  }
  out.push(n);
  return out;
}
/** @param {number} field @param {number} n */
const number = (field, n) => Buffer.from([...varint(field * 8), ...varint(n)]);
/** @param {number} field @param {Uint8Array} bytes */
const bytes = (field, bytes) => Buffer.concat([Buffer.from([...varint(field * 8 + 2), ...varint(bytes.length)]), bytes]);
/** @param {number} field @param {number[]} numbers */
const packed = (field, numbers) => bytes(field, Buffer.from(numbers.flatMap(varint)));

/**
 * @param {Sample[]} samples
 * @param {number} timeMs start, Unix
 * @param {number} durationMs
 */
export function encode(samples, timeMs, durationMs) {
  /** @type {Buffer[]} */
  const out = [];
  const strings = new Map([["", 0]]);
  const string = (/** @type {string} */ s) => strings.get(s) ?? (strings.set(s, strings.size), strings.size - 1);
  const valueType = (/** @type {string} */ type, /** @type {string} */ unit) => Buffer.concat([number(1, string(type)), number(2, string(unit))]);
  out.push(bytes(1, valueType("samples", "count")), bytes(1, valueType("cpu", "nanoseconds")));
  /** @type {Map<string, number>} */
  const mappings = new Map();
  /** @type {Map<string, number>} */
  const locations = new Map();
  const mapping = (/** @type {string} */ binary) => {
    let id = mappings.get(binary);
    if (id === undefined) {
      id = mappings.size + 1;
      mappings.set(binary, id);
      out.push(bytes(3, Buffer.concat([number(1, id), number(2, id * 2 ** 32), number(3, (id + 1) * 2 ** 32), number(5, string(binary)), number(6, string(`build-id-of-${binary}`)), number(7, 1)])));
    }
    return id;
  };
  const location = (/** @type {Frame} */ f) => {
    const key = JSON.stringify(f);
    let id = locations.get(key);
    if (id === undefined) {
      id = locations.size + 1;
      locations.set(key, id);
      const m = mapping(f.binary);
      out.push(bytes(5, Buffer.concat([number(1, id), number(2, string(f.name)), number(3, string(f.name)), number(4, string(f.file))])));
      out.push(bytes(4, Buffer.concat([number(1, id), number(2, m), number(3, m * 2 ** 32 + id * 16), bytes(4, Buffer.concat([number(1, id), number(2, f.file === "" ? 0 : 10 + id)]))])));
    }
    return id;
  };
  for (const s of samples) {
    out.push(bytes(2, Buffer.concat([packed(1, s.stack.map(location).reverse()), packed(2, [s.count, s.nanoseconds])])));
  }
  out.push(number(9, timeMs * 1e6), number(10, durationMs * 1e6), bytes(11, valueType("cpu", "nanoseconds")), number(12, 52_631_578));
  const table = [...strings.keys()].map((s) => bytes(6, Buffer.from(s)));
  return gzipSync(Buffer.concat([...out, ...table]));
}
