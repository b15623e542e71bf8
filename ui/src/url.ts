// The state of the page is its URL. This file is the codec: parse and format are inverse to each other on
// valid states, defaults are left out, and what is not understood is told, never silently reset.

import { parseTime } from "./time";

export const defaultType = "process_cpu:cpu:nanoseconds:cpu:nanoseconds";

export const themes = ["auto", "light", "dark"] as const;
export const colors = ["binary", "package"] as const;
export const sorts = ["self", "-self", "total", "-total", "function", "-function"] as const;
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
  /** Functions from below the root to the zoomed node; see formatPath. */
  zoom: readonly string[];
  /** The selected function. */
  fn: string;
  /** Regular expression. */
  search: string;
  /** Label that splits the time series. */
  group: string;
  color: (typeof colors)[number];
  /** Column of the top table; a leading "-" is descending. */
  sort: (typeof sorts)[number];
  refresh: (typeof refreshes)[number];
  theme: (typeof themes)[number];
}

export const defaults: State = {
  q: "{}",
  type: defaultType,
  from: "now-15m",
  to: "now",
  sel: null,
  zoom: [],
  fn: "",
  search: "",
  group: "service_name",
  color: "binary",
  sort: "-self",
  refresh: "off",
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

const texts = ["q", "type", "fn", "search", "group"] as const;

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
      case "fn":
      case "search":
      case "group":
        state[name] = text === "" && name !== "fn" && name !== "search" ? defaults[name] : text;
        break;
      case "from":
      case "to":
        if (parseTime(text, 0) === null) {
          notices.push(`${name}=${text} is not a time: using ${defaults[name]}. Use now-15m, Unix seconds, or RFC 3339.`);
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
  for (const name of ["from", "to", "color", "sort", "refresh", "theme"] as const) {
    if (state[name] !== defaults[name]) params.set(name, state[name]);
  }
  if (state.sel) params.set("sel", `${state.sel[0]}-${state.sel[1]}`);
  if (state.zoom.length > 0) params.set("zoom", formatPath(state.zoom));
  return params.toString();
}
