import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { match, PatternError } from "../flame/client";
import { matchedShare } from "../flame/search";
import { percent } from "../format";
import { change } from "../location";
import type { Shown } from "../flame/view";
import { typing } from "./help";

const typingPauseMs = 150;

/** For each of the names 1 if the search matches it, null without a search; and what is wrong with the pattern. */
export function useMatches(names: readonly string[], pattern: string): { bits: Uint8Array | null; error: string } {
  const [found, setFound] = useState<{ names: readonly string[]; bits: Uint8Array | null; error: string }>({ names, bits: null, error: "" });
  useEffect(() => {
    if (pattern === "") {
      setFound({ names, bits: null, error: "" });
      return;
    }
    const abort = new AbortController();
    match(names, pattern, abort.signal).then(
      (bits) => !abort.signal.aborted && setFound({ names, bits, error: "" }),
      (err: unknown) => {
        if (abort.signal.aborted) return;
        if (!(err instanceof PatternError)) throw err;
        setFound({ names, bits: null, error: err.message });
      },
    );
    return () => abort.abort();
  }, [names, pattern]);
  return { bits: found.names === names ? found.bits : null, error: found.error };
}

export function SearchField({ search, error, what = "functions" }: { search: string; error: string; what?: string }) {
  const input = useRef<HTMLInputElement>(null);
  /** Waits for a pause in typing; 0 if nothing is waiting. */
  const timer = useRef(0);
  const [text, setText] = useState(search);
  useEffect(() => {
    // What was typed since has yet to be sent.
    if (timer.current === 0) setText(search);
  }, [search]);
  useEffect(() => {
    const onKey = (e: KeyboardEvent) => {
      if (e.key !== "/" || typing(e) || e.ctrlKey || e.metaKey || e.altKey) return;
      e.preventDefault();
      input.current?.select();
      input.current?.focus();
    };
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  }, []);
  const set = (next: string, pause: number) => {
    setText(next);
    clearTimeout(timer.current);
    timer.current = window.setTimeout(() => {
      timer.current = 0;
      change({ search: next }, "replace");
    }, pause);
  };
  return (
    <span class="search">
      <input ref={input} type="search" class="mono" placeholder="Search: regular expression  ( / )" aria-label={`Search ${what}`} spellcheck={false}
        aria-invalid={error !== ""} aria-describedby="search-error" value={text}
        onInput={(e) => set(e.currentTarget.value, typingPauseMs)}
        onKeyDown={(e) => {
          if (e.key === "Escape") {
            set("", 0);
            input.current?.blur();
          } else if (e.key === "Enter") {
            set(text, 0);
            input.current?.blur();
          }
        }} />
      <span id="search-error" class="field-error" role="alert">{error}</span>
    </span>
  );
}

export function SearchShare({ shown, bits }: { shown: Shown; bits: Uint8Array | null }) {
  const { tree, focus } = shown;
  const share = useMemo(() => (bits ? matchedShare(tree, bits, focus) : null), [tree, bits, focus]);
  const pruned = useMemo(() => tree.prunedRows.node.length > 0, [tree]);
  if (!share) return null;
  // Functions that were pruned are not searched, so the true share may be larger.
  const atLeast = pruned ? "≥ " : "";
  const frames = share.nodes === 1 ? "1 frame" : `${share.nodes} frames`;
  return (
    <span class="share" role="status" data-testid="share">
      {share.nodes === 0 ? "no match" : <><b>{atLeast}{percent(share.value, tree.total[focus]!)}</b> in {frames} <kbd>n</kbd><kbd>N</kbd></>}
    </span>
  );
}
