// Search over a tree. The regular expression runs over names in the worker (a hostile or careless pattern
// must not freeze the page); what it matched is summed up here.

import type { Tree } from "./tree";

/** Case-insensitive unless the pattern has an upper-case letter. Throws SyntaxError on a bad pattern. */
export function compile(pattern: string): RegExp {
  // \S, \W and their like are classes, not upper-case text.
  const literal = pattern.replace(/\\./g, "");
  return new RegExp(pattern, /\p{Lu}/u.test(literal) ? "u" : "iu");
}

/** For each name 1 if it matches, else 0. */
export function matchNames(names: readonly string[], pattern: string): Uint8Array {
  const re = compile(pattern);
  const out = new Uint8Array(names.length);
  for (let i = 0; i < names.length; i++) out[i] = re.test(names[i]!) ? 1 : 0;
  return out;
}

export function escapeRegex(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
}

export interface Share {
  /** Nodes that match, nested ones included. */
  nodes: number;
  /** What the outermost matches have as total: a match inside a match is not counted again. */
  value: number;
}

/** Sums the matches below (and at) a node. */
export function matchedShare(t: Tree, matched: Uint8Array, within: number): Share {
  let nodes = 0;
  let value = 0;
  let covered = 0;
  for (let i = within; i < t.end[within]!; i++) {
    if (!matched[t.name[i]!]) continue;
    nodes++;
    if (i >= covered) {
      value += t.total[i]!;
      covered = t.end[i]!;
    }
  }
  return { nodes, value };
}

/** The next matching node after `from` in preorder within a subtree (before it if step is -1), going round; -1 if there is none. */
export function nextMatch(t: Tree, matched: Uint8Array, within: number, from: number, step: 1 | -1): number {
  const n = t.end[within]! - within;
  for (let k = 1; k <= n; k++) {
    const i = within + ((((from - within + step * k) % n) + n) % n);
    if (matched[t.name[i]!]) return i;
  }
  return -1;
}
