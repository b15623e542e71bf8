// The flame graph with its keyboard: a canvas for eyes and pointers, beside it a tree for everyone else.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { percent, value } from "../format";
import { Kind, type Hit } from "../flame/layout";
import { nextMatch } from "../flame/search";
import { firstChild, nextSibling, pathOf, previousSibling, type Tree } from "../flame/tree";
import { FlameView, type Above } from "../flame/view";
import type { State } from "../url";
import { typing } from "./help";

/** What the panel shows: the whole graph, or a subtree that was fetched by itself. */
export interface Shown {
  tree: Tree;
  /** The total of the whole graph. */
  whole: number;
  above: readonly Above[];
  /** The path of the tree's root. */
  base: readonly string[];
  focus: number;
}

interface Props {
  shown: Shown;
  state: State;
  dark: boolean;
  matched: Uint8Array | null;
  /** Function to outline. */
  outlined: string;
  /** Source files of functions, as far as known. */
  files: ReadonlyMap<string, string>;
  onZoom: (path: readonly string[], fn?: string) => void;
}

export function FlamePanel({ shown, state, dark, matched, outlined, files, onZoom }: Props) {
  const { tree, focus } = shown;
  const scroller = useRef<HTMLDivElement>(null);
  const spacer = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const proxy = useRef<HTMLDivElement>(null);
  const view = useRef<FlameView | null>(null);
  const [hovered, setHovered] = useState<Hit | null>(null);
  // The keyboard's node belongs to one tree and focus: with another, it starts at the focus again.
  const [cursor, setCursor] = useState({ tree, focus, node: focus });
  const current = cursor.tree === tree && cursor.focus === focus ? cursor.node : focus;
  const [keyboard, setKeyboard] = useState(false);

  const moveTo = (node: number) => node >= 0 && setCursor({ tree, focus, node });
  const zoomTo = (node: number) => onZoom([...shown.base, ...pathOf(tree, node)], node > 0 || shown.base.length > 0 ? tree.names[tree.name[node]!] : "");
  const onClick = (h: Hit) => {
    proxy.current?.focus({ preventScroll: true });
    setKeyboard(false);
    if (h.kind === Kind.Above) onZoom(state.zoom.slice(0, h.node));
    else zoomTo(h.node);
  };
  const clicked = useRef(onClick);
  clicked.current = onClick;

  useEffect(() => {
    if (!scroller.current || !spacer.current || !canvas.current) return;
    const v = new FlameView(scroller.current, spacer.current, canvas.current, {
      hover: setHovered,
      click: (h) => clicked.current(h),
    });
    view.current = v;
    return () => {
      v.close();
      view.current = null;
    };
  }, []);
  useEffect(() => view.current?.setColors(state.color, dark), [state.color, dark]);
  useEffect(() => {
    setHovered(null);
    view.current?.setTree(tree, shown.whole, shown.above, focus);
  }, [tree, shown.whole, shown.above]);
  useEffect(() => view.current?.setFocus(focus), [focus]);
  useEffect(() => view.current?.setMatched(matched), [matched, tree]);
  useEffect(() => view.current?.setSelected(outlined), [outlined, tree]);
  useEffect(() => view.current?.setCurrent(keyboard ? current : -1), [current, keyboard, tree]);

  // Assigned while rendering, not in an effect: those run after the next paint, and keys may come sooner.
  const windowKey = useRef((_: KeyboardEvent) => {});
  windowKey.current = (e) => {
    if (typing(e) || e.ctrlKey || e.metaKey || e.altKey || document.querySelector("dialog[open]")) return;
    switch (e.key) {
      case "n":
      case "N":
        if (!matched) return;
        setKeyboard(true);
        moveTo(nextMatch(tree, matched, focus, current, e.key === "n" ? 1 : -1));
        break;
      case "Escape":
      case "Backspace":
        if (state.zoom.length === 0) return;
        onZoom(state.zoom.slice(0, -1));
        break;
      case "0":
        onZoom([]);
        break;
      default:
        return;
    }
    e.preventDefault();
  };
  useEffect(() => {
    const onKey = (e: KeyboardEvent) => windowKey.current(e);
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  }, []);

  const onTreeKey = (e: KeyboardEvent) => {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    switch (e.key) {
      case "ArrowUp":
        moveTo(tree.parent[current]!);
        break;
      case "ArrowDown":
        moveTo(firstChild(tree, current));
        break;
      case "ArrowLeft":
        moveTo(previousSibling(tree, current));
        break;
      case "ArrowRight":
        moveTo(nextSibling(tree, current));
        break;
      case "Enter":
        zoomTo(current);
        break;
      default:
        return;
    }
    setKeyboard(true);
    e.preventDefault();
  };

  return (
    <>
      <div class="flame" ref={scroller}>
        <div ref={spacer}>
          <canvas ref={canvas} aria-hidden="true" />
        </div>
        <TreeProxy proxy={proxy} shown={shown} current={current} onKey={onTreeKey} onFocus={() => setKeyboard(proxy.current?.matches(":focus-visible") ?? false)} onBlur={() => setKeyboard(false)} />
      </div>
      <Details shown={shown} hit={hovered ?? { node: current, kind: Kind.Node }} files={files} />
      <p class="sr" aria-live="polite">{keyboard ? sentence(shown, current) : ""}</p>
    </>
  );
}

function sentence(s: Shown, node: number): string {
  const { tree } = s;
  return `${tree.names[tree.name[node]!]}, ${percent(tree.total[node]!, s.whole)} of all, self ${value(tree.self[node]!, tree.unit)}`;
}

const maxSiblings = 40;

/**
 * The graph as a tree of text around the current node: the way down to it, its siblings, its children. Ten
 * thousand items would help nobody, and aria-setsize says how many there are.
 */
function TreeProxy({ proxy, shown, current, onKey, onFocus, onBlur }: {
  proxy: { current: HTMLDivElement | null };
  shown: Shown;
  current: number;
  onKey: (e: KeyboardEvent) => void;
  onFocus: () => void;
  onBlur: () => void;
}) {
  const { tree } = shown;
  const items = useMemo(() => {
    const out: { node: number; position: number; size: number }[] = [];
    const family = (first: number, keep: number) => {
      const all: number[] = [];
      for (let i = first; i >= 0; i = nextSibling(tree, i)) all.push(i);
      const at = Math.max(0, all.indexOf(keep));
      const from = Math.max(0, Math.min(at - maxSiblings / 2, all.length - maxSiblings));
      return all.slice(from, from + maxSiblings).map((node, k) => ({ node, position: from + k + 1, size: all.length }));
    };
    const way: number[] = [];
    for (let i = tree.parent[current]!; i >= 0; i = tree.parent[i]!) way.unshift(i);
    for (const node of way) out.push({ node, position: 1, size: 1 });
    const parent = tree.parent[current]!;
    for (const item of parent < 0 ? [{ node: current, position: 1, size: 1 }] : family(firstChild(tree, parent), current)) {
      out.push(item);
      if (item.node === current) out.push(...family(firstChild(tree, current), -1));
    }
    return out;
  }, [tree, current]);
  return (
    <div ref={proxy} class="tree-proxy" role="tree" tabIndex={0} aria-label="Flame graph" aria-activedescendant={`frame-${current}`}
      onKeyDown={onKey} onFocus={onFocus} onBlur={onBlur}>
      {items.map(({ node, position, size }) => (
        <div key={node} id={`frame-${node}`} role="treeitem" aria-level={tree.depth[node]! + 1} aria-posinset={position} aria-setsize={size}
          aria-selected={node === current} aria-expanded={firstChild(tree, node) >= 0 ? node <= current && current < tree.end[node]! : undefined}>
          {tree.names[tree.name[node]!]} {percent(tree.total[node]!, shown.whole)}
        </div>
      ))}
    </div>
  );
}

/** One frame in numbers. Always there and always the same height, so that nothing jumps. */
function Details({ shown, hit, files }: { shown: Shown; hit: Hit; files: ReadonlyMap<string, string> }) {
  const { tree, whole, focus } = shown;
  if (hit.kind === Kind.Above) {
    const above = shown.above[hit.node];
    return (
      <div class="details" data-testid="details">
        <p class="name mono">{above?.name}</p>
        <p class="facts"><span class="muted">Click to zoom out to this caller.</span></p>
      </div>
    );
  }
  const node = hit.node;
  const pruned = hit.kind === Kind.Pruned;
  const total = pruned ? tree.prunedValue[node]! : tree.total[node]!;
  const name = tree.names[tree.name[node]!]!;
  const parent = pruned ? node : tree.parent[node]!;
  const binary = tree.binaries[tree.binaryOf[tree.name[node]!]!]!;
  const file = files.get(name) ?? "";
  // Of a fetched subtree's own root nothing more can be fetched; the table always has all of them.
  const more = node === 0 && shown.base.length > 0 ? "the table has them" : "click to load them";
  return (
    <div class="details" data-testid="details">
      <p class="name mono" title={pruned ? undefined : name}>
        {pruned ? `${tree.prunedCount[node]} functions called by ${name}, too small to draw: ${more}` : name}
      </p>
      <p class="facts">
        {!pruned && <Fact label="self" text={value(tree.self[node]!, tree.unit)} more={percent(tree.self[node]!, whole)} />}
        <Fact label="total" text={value(total, tree.unit)} />
        <Fact label="of all" text={percent(total, whole)} />
        {parent >= 0 && <Fact label="of parent" text={percent(total, tree.total[parent]!)} />}
        {focus > 0 || shown.base.length > 0 ? <Fact label="of view" text={percent(total, tree.total[focus]!)} /> : null}
        {!pruned && binary !== "" && <Fact label="binary" text={binary} />}
        {!pruned && file !== "" && <Fact label="file" text={file} />}
      </p>
    </div>
  );
}

function Fact({ label, text, more }: { label: string; text: string; more?: string }) {
  return <span class="fact"><span class="muted">{label}</span> <b title={text}>{text}</b>{more && <span class="muted"> {more}</span>}</span>;
}
