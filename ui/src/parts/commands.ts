// What can be done with a frame: the context menu lists it, the keys do it.

import { escapeRegex } from "../flame/search";
import { change, go, href } from "../location";
import { parseTime, unixSeconds } from "../time";
import type { State } from "../url";

export interface Frame {
  name: string;
  binary: string;
}

export interface Command {
  label: string;
  key?: string;
  run: () => void;
}

/** Rejects if the browser does not allow it. Without a secure context, as of HTTP from another machine, it has no clipboard at all. */
export async function copyText(text: string): Promise<void> {
  await navigator.clipboard.writeText(text);
}

export function addFilter(state: State, kind: string, expression: string): void {
  change({ f: [...state.f, `${kind}:${expression}`], zoom: [] });
}

/** `notCopied` gets a name that the browser does not allow to copy. */
export function commands(state: State, frame: Frame, zoom: () => void, notCopied: (name: string) => void): Command[] {
  const exact = `^${escapeRegex(frame.name)}$`;
  const list: Command[] = [
    { label: "Zoom in", key: "Enter", run: zoom },
    { label: "Sandwich: callers and callees", key: "s", run: () => go(href("/explore", { ...state, view: "sandwich", name: frame.name, zoom: [] })) },
    { label: "Source: which lines", run: () => go(href("/explore", { ...state, view: "source", name: frame.name, zoom: [] })) },
    { label: "Its own page: trend, calls, lines, cost per label", run: () => go(href("/fn", { ...state, name: frame.name, view: "flame", zoom: [] })) },
    { label: "Focus: only stacks with it", key: "f", run: () => addFilter(state, "focus", exact) },
    { label: "Ignore: only stacks without it", key: "x", run: () => addFilter(state, "ignore", exact) },
    { label: "Hide the frame", key: "h", run: () => addFilter(state, "hide", exact) },
    { label: "Show from here", run: () => addFilter(state, "show_from", exact) },
    { label: "Copy the name", key: "c", run: () => void copyText(frame.name).catch(() => notCopied(frame.name)) },
  ];
  if (frame.binary !== "") {
    const base = frame.binary.slice(frame.binary.lastIndexOf("/") + 1);
    list.push({ label: `Focus on ${base}`, run: () => addFilter(state, "focus", `${escapeRegex(frame.binary)}$`) });
  }
  return list;
}

/** The same selection, compared with the period of the same length before it. `now` is the view's: the clock's would give each rendering a period of its own. */
export function previousPeriod(state: State, now: number): State {
  const [from, to] = state.sel ? state.sel.map(String) as [string, string] : [state.from, state.to];
  const before = /^now-(\d+(?:\.\d+)?)([smhd])$/.exec(from);
  const base = { ...state, from, to, sel: null, zoom: [], view: "flame" as const, "b.q": "" };
  if (before && to === "now") return { ...base, "b.from": `now-${2 * Number(before[1])}${before[2]}`, "b.to": from };
  const [a, b] = [parseTime(from, now) ?? 0, parseTime(to, now) ?? 0];
  return { ...base, "b.from": unixSeconds(2 * a - b), "b.to": unixSeconds(a) };
}
