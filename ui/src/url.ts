// The state of the page is its URL. This file is the codec: parse and format are inverse to each other on
// valid states, defaults are left out, and what is not understood is told, never silently reset.

import { parseTime } from "./time";

export const defaultType = "process_cpu:cpu:nanoseconds:cpu:nanoseconds";

export const themes = ["auto", "light", "dark"] as const;
export const colors = ["binary", "package"] as const;
export const sorts = ["self", "-self", "total", "-total", "function", "-function", "change", "-change"] as const;
export const views = ["flame", "sandwich", "table", "source"] as const;
export const filterKinds = ["focus", "ignore", "hide", "show_from", "collapse"] as const;
export const refreshes = ["off", "10s", "30s", "1m"] as const;

export interface State {
  /** Selector, as in PromQL. */
  q: string;
  type: string;
  /** Texts that parseTime reads. */
  from: string;
  to: string;
  /** The brushed range inside [from, to), Unix seconds. */
  sel: readonly [number, number] | null;
  view: (typeof views)[number];
  /** Functions from below the root to the zoomed node; see formatPath. */
  zoom: readonly string[];
  /** Filters in their order, each kind:expression. */
  f: readonly string[];
  /** The selected function: that of the sandwich, of the source, and of /fn. */
  name: string;
  /** Regular expression. */
  search: string;
  /** Label that splits the time series. */
  group: string;
  color: (typeof colors)[number];
  /** Column of the top table; a leading "-" is descending. */
  sort: (typeof sorts)[number];
  refresh: (typeof refreshes)[number];
  /** The flame graph from the innermost functions upwards. */
  inv: boolean;
  /** The table beside the graph. */
  table: boolean;
  /** Of a diff: compare shares of each side's total. */
  norm: boolean;
  /** What a diff compares with. */
  "b.q": string;
  "b.from": string;
  "b.to": string;
  theme: (typeof themes)[number];
}

export const defaults: State = {
  q: "{}",
  type: defaultType,
  from: "now-1h",
  to: "now",
  sel: null,
  view: "flame",
  zoom: [],
  f: [],
  name: "",
  search: "",
  group: "service_name",
  color: "binary",
  sort: "-self",
  refresh: "off",
  inv: false,
  table: true,
  norm: false,
  "b.q": "",
  "b.from": "",
  "b.to": "",
  theme: "auto",
};

/** A path of function names as the API's root= carries it: joined by ";", with "\" before a ";" or "\" of a name. */
export function formatPath(functions: readonly string[]): string {
  return functions.map((f) => f.replace(/[\\;]/g, "\\$&")).join(";");
}

export function parsePath(path: string): string[] {
  if (path === "") return [];
  const out = [""];
  for (let i = 0; i < path.length; i++) {
    if (path[i] === "\\" && i + 1 < path.length) out[out.length - 1] += path[++i];
    else if (path[i] === ";") out.push("");
    else out[out.length - 1] += path[i];
  }
  return out;
}

const texts = ["q", "type", "name", "search", "group", "b.q"] as const;
const flags = ["inv", "table", "norm"] as const;

/** A filter's kind and its expression, or null if it is none. */
export function parseFilter(text: string): { kind: (typeof filterKinds)[number]; expression: string } | null {
  const colon = text.indexOf(":");
  const kind = filterKinds.find((k) => k === text.slice(0, colon));
  return kind && colon + 1 < text.length ? { kind, expression: text.slice(colon + 1) } : null;
}

function oneOf<T extends string>(name: string, text: string, allowed: readonly T[], fallback: T, notices: string[]): T {
  if ((allowed as readonly string[]).includes(text)) return text as T;
  notices.push(`${name}=${text} is not known: using ${fallback}. It can be ${allowed.join(", ")}.`);
  return fallback;
}

/** Reads a query string. `notices` names each parameter that was not understood and what is used instead. */
export function parse(query: string): { state: State; notices: string[] } {
  const params = new URLSearchParams(query);
  const state: State = { ...defaults };
  const notices: string[] = [];
  for (const [name, text] of params) {
    switch (name) {
      case "q":
      case "type":
      case "group":
        state[name] = text || defaults[name];
        break;
      case "name":
      case "search":
      case "b.q":
        state[name] = text;
        break;
      case "from":
      case "to":
      case "b.from":
      case "b.to":
        if (parseTime(text, 0) === null) {
          notices.push(`${name}=${text} is not a time: using ${defaults[name] || "that of A"}. Use now-15m, Unix seconds, or RFC 3339.`);
        } else state[name] = text;
        break;
      case "sel": {
        const m = /^(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)$/.exec(text);
        if (m && Number(m[1]) < Number(m[2])) state.sel = [Number(m[1]), Number(m[2])];
        else notices.push(`sel=${text} is not a range of Unix seconds: showing the whole range.`);
        break;
      }
      case "zoom":
        state.zoom = parsePath(text);
        break;
      case "f":
        if (parseFilter(text)) state.f = [...state.f, text];
        else notices.push(`f=${text} is not a filter and is left out. Write ${filterKinds.join(":, ")}: and a regular expression.`);
        break;
      case "inv":
      case "table":
      case "norm":
        if (text === "0" || text === "1") state[name] = text === "1";
        else notices.push(`${name}=${text} is not known: using ${defaults[name] ? 1 : 0}. It can be 0, 1.`);
        break;
      case "view":
        state.view = oneOf(name, text, views, defaults.view, notices);
        break;
      case "color":
        state.color = oneOf(name, text, colors, defaults.color, notices);
        break;
      case "sort":
        state.sort = oneOf(name, text, sorts, defaults.sort, notices);
        break;
      case "refresh":
        state.refresh = oneOf(name, text, refreshes, defaults.refresh, notices);
        break;
      case "theme":
        state.theme = oneOf(name, text, themes, defaults.theme, notices);
        break;
      default:
        notices.push(`The parameter ${name} is not known and is ignored.`);
    }
  }
  return { state, notices };
}

/** The query string of a state, without "?", "" if all is default. */
export function format(state: State): string {
  const params = new URLSearchParams();
  for (const name of texts) {
    if (state[name] !== defaults[name]) params.set(name, state[name]);
  }
  for (const name of ["from", "to", "b.from", "b.to", "view", "color", "sort", "refresh", "theme"] as const) {
    if (state[name] !== defaults[name]) params.set(name, state[name]);
  }
  for (const name of flags) {
    if (state[name] !== defaults[name]) params.set(name, state[name] ? "1" : "0");
  }
  for (const filter of state.f) params.append("f", filter);
  if (state.sel) params.set("sel", `${state.sel[0]}-${state.sel[1]}`);
  if (state.zoom.length > 0) params.set("zoom", formatPath(state.zoom));
  return params.toString();
}
