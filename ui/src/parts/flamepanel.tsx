// The flame graph with its keyboard: a canvas for eyes and pointers, beside it a tree for everyone else.

import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";
import { percent, value } from "../format";
import { Kind, type Hit } from "../flame/layout";
import { nextMatch } from "../flame/search";
import { firstChild, nextSibling, pathOf, previousSibling } from "../flame/tree";
import { FlameView, type Shown } from "../flame/view";
import type { State } from "../url";
import { commands, type Frame } from "./commands";
import { Details, type Rows } from "./details";
import { typing } from "./help";
import { Menu, type Opened } from "./menu";

interface Props {
  label: string;
  shown: Shown;
  state: State;
  dark: boolean;
  matched: Uint8Array | null;
  /** Function to outline. */
  outlined: string;
  rows: Rows;
  /** The root at the bottom. */
  flipped?: boolean;
  /** A click or Enter on a frame: the path to it, and its function. */
  onOpen: (path: readonly string[], name: string) => void;
  /** Whether the keys of the whole window are this panel's: zooming out, and from match to match. */
  main?: boolean;
  view?: { current: FlameView | null };
  /** Of a local file: no server answers commands. */
  local?: boolean;
  /** Told what one looks at, in place of details of the panel's own. */
  onLook?: (shown: Shown, hit: Hit) => void;
}

export function FlamePanel({ label, shown, state, dark, matched, outlined, rows, flipped = false, onOpen, main = false, view: outer, local = false, onLook }: Props) {
  const { tree, focus } = shown;
  const scroller = useRef<HTMLDivElement>(null);
  const spacer = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const proxy = useRef<HTMLDivElement>(null);
  const own = useRef<FlameView | null>(null);
  const view = outer ?? own;
  const [hovered, setHovered] = useState<Hit | null>(null);
  // The keyboard's node belongs to one tree and focus: with another, it starts at the focus again.
  const [cursor, setCursor] = useState({ tree, focus, node: focus });
  const current = cursor.tree === tree && cursor.focus === focus ? cursor.node : focus;
  const [keyboard, setKeyboard] = useState(false);
  const [menu, setMenu] = useState<Opened | null>(null);
  const [notCopied, setNotCopied] = useState("");
  const closeMenu = useCallback(() => setMenu(null), []);

  const moveTo = (node: number) => node >= 0 && setCursor({ tree, focus, node });
  const open = (node: number) => onOpen([...shown.base, ...pathOf(tree, node)], node > 0 || shown.base.length > 0 ? tree.names[tree.name[node]!]! : "");
  const commandsOf = (frame: Frame, zoom: () => void) => {
    const all = commands(state, frame, zoom, setNotCopied);
    return local ? all.filter((c) => c.key === "Enter" || c.key === "c") : all;
  };
  const commandsFor = (node: number) => {
    const id = tree.name[node]!;
    return commandsOf({ name: tree.names[id]!, binary: tree.binaries[tree.binaryOf[id]!]! }, () => open(node));
  };
  const openMenu = (node: number, x: number, y: number) => setMenu({ title: tree.names[tree.name[node]!]!, x, y, commands: commandsFor(node) });
  const events = useRef({ click: (_: Hit) => {}, menu: (_h: Hit, _x: number, _y: number) => {} });
  events.current = {
    click: (h) => {
      proxy.current?.focus({ preventScroll: true });
      setKeyboard(false);
      if (h.kind === Kind.Above) onOpen(state.zoom.slice(0, h.node), shown.above[h.node]!.name);
      else open(h.node);
    },
    menu: (h, x, y) => {
      if (h.kind !== Kind.Above) openMenu(h.node, x, y);
    },
  };

  useEffect(() => {
    if (!scroller.current || !spacer.current || !canvas.current) return;
    const v = new FlameView(scroller.current, spacer.current, canvas.current, {
      hover: setHovered,
      click: (h) => events.current.click(h),
      menu: (h, x, y) => events.current.menu(h, x, y),
    }, flipped);
    view.current = v;
    return () => {
      v.close();
      view.current = null;
    };
  }, []);
  useEffect(() => onLook?.(shown, hovered ?? { node: current, kind: Kind.Node }), [hovered, current, tree]);
  useEffect(() => view.current?.setColors(state.color, dark), [state.color, dark]);
  useEffect(() => {
    setHovered(null);
    setMenu(null);
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
        onOpen(state.zoom.slice(0, -1), state.name);
        break;
      case "0":
        onOpen([], "");
        break;
      case "s":
      case "f":
      case "x":
      case "h":
      case "c": {
        // Of the frame one looks at: under the pointer, or where the keyboard is; or else of the function in the table.
        const node = hovered && !keyboard && hovered.kind !== Kind.Above ? hovered.node : current;
        const none = node === 0 && shown.base.length === 0;
        if (none && outlined === "") return;
        const list = none ? commandsOf({ name: outlined, binary: "" }, () => {}) : commandsFor(node);
        list.find((c) => c.key === e.key)?.run();
        break;
      }
      default:
        return;
    }
    e.preventDefault();
  };
  useEffect(() => {
    if (!main) return;
    const onKey = (e: KeyboardEvent) => windowKey.current(e);
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  }, [main]);

  const onTreeKey = (e: KeyboardEvent) => {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    switch (e.key) {
      case flipped ? "ArrowDown" : "ArrowUp":
        moveTo(tree.parent[current]!);
        break;
      case flipped ? "ArrowUp" : "ArrowDown":
        moveTo(firstChild(tree, current));
        break;
      case "ArrowLeft":
        moveTo(previousSibling(tree, current));
        break;
      case "ArrowRight":
        moveTo(nextSibling(tree, current));
        break;
      case "Enter":
        open(current);
        break;
      case "ContextMenu":
      case "F10": {
        if (e.key === "F10" && !e.shiftKey) return;
        const at = view.current?.pointOf(current) ?? { x: 0, y: 0 };
        openMenu(current, at.x, at.y);
        break;
      }
      default:
        return;
    }
    setKeyboard(true);
    e.preventDefault();
  };

  return (
    <>
      {notCopied !== "" && (
        <div class="note" role="status">
          <span>The browser does not allow it: select the text and copy it. <b class="mono">{notCopied}</b></span>
          <button type="button" onClick={() => setNotCopied("")}>Dismiss</button>
        </div>
      )}
      <div class="flame" ref={scroller}>
        <div ref={spacer}>
          <canvas ref={canvas} aria-hidden="true" />
        </div>
        <TreeProxy label={label} proxy={proxy} shown={shown} current={current} onKey={onTreeKey} onFocus={() => setKeyboard(proxy.current?.matches(":focus-visible") ?? false)} onBlur={() => setKeyboard(false)} />
      </div>
      {!onLook && <Details shown={shown} hit={hovered ?? { node: current, kind: Kind.Node }} rows={rows} />}
      {menu && <Menu menu={menu} close={closeMenu} />}
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
function TreeProxy({ label, proxy, shown, current, onKey, onFocus, onBlur }: {
  label: string;
  proxy: { current: HTMLDivElement | null };
  shown: Shown;
  current: number;
  onKey: (e: KeyboardEvent) => void;
  onFocus: () => void;
  onBlur: () => void;
}) {
  const { tree } = shown;
  const id = label.replace(/\W+/g, "-");
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
    <div ref={proxy} class="tree-proxy" role="tree" tabIndex={0} aria-label={label} aria-activedescendant={`${id}-${current}`}
      onKeyDown={onKey} onFocus={onFocus} onBlur={onBlur}>
      {items.map(({ node, position, size }) => (
        <div key={node} id={`${id}-${node}`} role="treeitem" aria-level={tree.depth[node]! + 1} aria-posinset={position} aria-setsize={size}
          aria-selected={node === current} aria-expanded={firstChild(tree, node) >= 0 ? node <= current && current < tree.end[node]! : undefined}>
          {tree.names[tree.name[node]!]} {percent(tree.total[node]!, shown.whole)}
        </div>
      ))}
    </div>
  );
}
