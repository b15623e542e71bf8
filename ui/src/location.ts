// The URL as the page's state.

import { useEffect, useState } from "preact/hooks";
import { format, parse, type State } from "./url";

export const pages = ["/", "/explore", "/diff", "/targets", "/open", "/fn"] as const;
export type Page = (typeof pages)[number];

export interface Location {
  page: Page;
  state: State;
  notices: string[];
}

const changed = "pilotlight:location";

function read(): Location {
  const path = window.location.pathname;
  const page = pages.find((p) => p === path) ?? "/";
  return { page, ...parse(window.location.search) };
}

export function useLocation(): Location {
  const [location, setLocation] = useState(read);
  useEffect(() => {
    const update = () => setLocation(read());
    window.addEventListener("popstate", update);
    window.addEventListener(changed, update);
    return () => {
      window.removeEventListener("popstate", update);
      window.removeEventListener(changed, update);
    };
  }, []);
  return location;
}

export function href(page: Page, state: State): string {
  const query = format(state);
  return query ? `${page}?${query}` : page;
}

/**
 * Changes the state. A step that one would want to go back from makes a history entry; typing and the like
 * replace the present one.
 */
export function change(patch: Partial<State>, history: "push" | "replace" = "push"): void {
  const { page, state } = read();
  go(href(page, { ...state, ...patch }), history);
}

export function go(url: string, history: "push" | "replace" = "push"): void {
  if (url === window.location.pathname + window.location.search) return;
  if (history === "push") window.history.pushState(null, "", url);
  else window.history.replaceState(null, "", url);
  window.dispatchEvent(new Event(changed));
}

/** For links between pages: a plain click stays in the page; others are the browser's. */
export function follow(event: MouseEvent): void {
  if (event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  const link = event.currentTarget as HTMLAnchorElement;
  go(link.pathname + link.search);
  window.scrollTo(0, 0);
}
