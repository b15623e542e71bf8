// The table of functions on its way from the worker to the page: in columns, as to read twenty thousand objects would
// hold up the page for longer than to draw the graph. Pure.

import type { Top, TopRow } from "../wire";

export interface PackedTop extends Omit<Top, "rows"> {
  functions: string[];
  /** Binaries and files; the columns below say which of these are a row's. */
  texts: string[];
  binary: Uint32Array;
  file: Uint32Array;
  self: Float64Array;
  all: Float64Array;
  /** Empty without a B. */
  selfB: Float64Array;
  allB: Float64Array;
}

export function packTop({ rows, ...rest }: Top): PackedTop {
  const texts = new Map<string, number>();
  const idOf = (text: string) => {
    let id = texts.get(text);
    if (id === undefined) texts.set(text, (id = texts.size));
    return id;
  };
  const numbers = (of: (row: TopRow) => number) => Float64Array.from(rows, of);
  const diff = rest.total_b !== undefined;
  return {
    ...rest,
    functions: rows.map((r) => r.function),
    binary: Uint32Array.from(rows, (r) => idOf(r.binary)),
    file: Uint32Array.from(rows, (r) => idOf(r.file)),
    texts: [...texts.keys()],
    self: numbers((r) => r.self),
    all: numbers((r) => r.total),
    selfB: diff ? numbers((r) => r.self_b ?? 0) : new Float64Array(0),
    allB: diff ? numbers((r) => r.total_b ?? 0) : new Float64Array(0),
  };
}

export function unpackTop({ functions, texts, binary, file, self, all, selfB, allB, ...rest }: PackedTop): Top {
  const rows = functions.map((name, i): TopRow => {
    const row: TopRow = { function: name, binary: texts[binary[i]!]!, file: texts[file[i]!]!, self: self[i]!, total: all[i]! };
    if (rest.total_b === undefined) return row;
    row.self_b = selfB[i]!;
    row.total_b = allB[i]!;
    return row;
  });
  return { ...rest, rows };
}

/** The buffers to hand over. */
export function topBuffers(t: PackedTop): ArrayBuffer[] {
  return [t.binary, t.file, t.self, t.all, t.selfB, t.allB].map((a) => a.buffer as ArrayBuffer);
}
