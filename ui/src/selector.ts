// Selectors as text: what is being typed at the caret, and how a matcher is written. The server parses them.

export interface Completion {
  kind: "name" | "value";
  /** For values: of this label. */
  label: string;
  /** What is typed so far. */
  prefix: string;
  /** The part of the text that a choice replaces. */
  from: number;
  to: number;
}

/** What can be completed at the caret, or null. */
export function completionAt(text: string, caret: number): Completion | null {
  const open = text.indexOf("{");
  const start = open < 0 || open >= caret ? (text.trim() === "" ? 0 : -1) : open + 1;
  if (start < 0) return null;
  // Walk matcher by matcher: name, operator, quoted value, comma.
  let i = start;
  while (i <= caret) {
    while (/[\s,]/.test(text[i] ?? "")) i++;
    const nameFrom = i;
    while (/[\w.]/.test(text[i] ?? "")) i++;
    if (caret <= i) return { kind: "name", label: "", prefix: text.slice(nameFrom, Math.max(caret, nameFrom)), from: Math.min(nameFrom, caret), to: i };
    const label = text.slice(nameFrom, i);
    while (/[\s=!~]/.test(text[i] ?? "")) i++;
    if (text[i] !== '"') return null;
    const valueFrom = ++i;
    while (i < text.length && text[i] !== '"') i += text[i] === "\\" ? 2 : 1;
    if (caret >= valueFrom && caret <= i) {
      return { kind: "value", label, prefix: text.slice(valueFrom, caret), from: valueFrom, to: Math.min(i, text.length) };
    }
    i++;
    if (i >= text.length || text[i] === "}") return null;
  }
  return null;
}

function escapeValue(value: string): string {
  return value.replace(/["\\]/g, "\\$&").replace(/\n/g, "\\n");
}

/** The text after a choice, and where the caret goes. */
export function complete(text: string, at: Completion, choice: string): { text: string; caret: number } {
  let insert = choice;
  let rest = text.slice(at.to);
  let back = 0;
  if (at.kind === "name") {
    if (!/^\s*[=!]/.test(rest)) {
      insert += '=""';
      back = 1;
    }
    if (!text.slice(0, at.from).includes("{")) insert = "{" + insert;
  } else {
    insert = escapeValue(choice);
    if (rest.startsWith('"')) {
      insert += '"';
      rest = rest.slice(1);
    } else insert += '"';
  }
  if (!rest.includes("}")) rest += "}";
  const head = text.slice(0, at.from) + insert;
  return { text: head + rest, caret: head.length - back };
}

/** The selector of a single label's value; for "" that of profiles without the label. */
export function equals(name: string, value: string): string {
  return `{${name}="${escapeValue(value)}"}`;
}

/** A selector with one more matcher, which it may have already. */
export function and(selector: string, name: string, value: string): string {
  const inner = selector.trim().replace(/^\{|\}$/g, "").trim().replace(/,$/, "");
  const matcher = equals(name, value).slice(1, -1);
  if (inner.split(/,\s*/).includes(matcher)) return selector;
  return inner === "" ? `{${matcher}}` : `{${inner}, ${matcher}}`;
}
