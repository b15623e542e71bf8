// FlameView: a flame graph on a canvas. Framework-free; owns the canvas, the pointer and the scroll position,
// and reports what the user did. State that is worth a URL comes in through its setters.

import { changeColor, colorOf, palette, type ColorMode } from "./color";
import { Painter, type Scene } from "./draw";
import { flip, hit, Kind, layout, newRects, rowCount, type Hit, type View } from "./layout";
import { delta, type Tree } from "./tree";

export interface Above {
  name: string;
  binary: string;
}

/** What a panel shows: the whole graph, or a subtree that was fetched by itself. */
export interface Shown {
  tree: Tree;
  /** The total of the whole graph. */
  whole: number;
  above: readonly Above[];
  /** The path of the tree's root. */
  base: readonly string[];
  focus: number;
}

export interface Events {
  hover(hit: Hit | null): void;
  click(hit: Hit): void;
  /** At a point of the window. */
  menu(hit: Hit, x: number, y: number): void;
}

export const rowHeight = 20;

export class FlameView {
  private readonly painter: Painter;
  private readonly observer: ResizeObserver;
  private readonly rects = newRects();
  private readonly view: View = { focus: 0, above: 0, width: 0, height: 0, scrollTop: 0, rowHeight, rows: 0, flipped: false };
  private scene: Scene | null = null;
  private above: readonly Above[] = [];
  private colorMode: ColorMode = "binary";
  private colors = palette(false);
  private frame = 0;
  /** Something besides the outlines has changed since the last paint. */
  private changed = true;
  private hovered: Hit | null = null;

  /**
   * `scroller` scrolls; `spacer` inside it is given the height of the graph; `canvas`, sticky in the spacer,
   * never outgrows the scroller, however deep the stacks are.
   */
  constructor(
    private readonly scroller: HTMLElement,
    private readonly spacer: HTMLElement,
    private readonly canvas: HTMLCanvasElement,
    private readonly events: Events,
    /** The root at the bottom. */
    flipped = false,
  ) {
    this.view.flipped = flipped;
    const context = canvas.getContext("2d", { alpha: false });
    if (!context) throw new Error("this browser gives no 2D canvas");
    this.painter = new Painter(context);
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(scroller);
    scroller.addEventListener("scroll", this.onScroll, { passive: true });
    canvas.addEventListener("pointermove", this.onMove);
    canvas.addEventListener("pointerleave", this.onLeave);
    canvas.addEventListener("click", this.onClick);
    canvas.addEventListener("contextmenu", this.onMenu);
    this.resize();
  }

  close(): void {
    cancelAnimationFrame(this.frame);
    this.observer.disconnect();
    this.scroller.removeEventListener("scroll", this.onScroll);
    this.canvas.removeEventListener("pointermove", this.onMove);
    this.canvas.removeEventListener("pointerleave", this.onLeave);
    this.canvas.removeEventListener("click", this.onClick);
    this.canvas.removeEventListener("contextmenu", this.onMenu);
  }

  /** Shows a tree; `above` are the callers of its root when it was fetched as a subtree, outermost first. */
  setTree(tree: Tree, whole: number, above: readonly Above[], focus: number): void {
    this.above = above;
    this.view.above = above.length;
    this.scene = {
      tree,
      view: this.view,
      whole,
      above: [],
      colors: tree.colors[this.colorMode],
      change: tree.b && ((node) => changeColor(delta(tree, node) / Math.max(tree.total[node]!, tree.b!.total[node]! * tree.scaleB))),
      matched: null,
      selected: new Set(),
      hovered: -1,
      current: -1,
    };
    this.recolor();
    this.setFocus(focus);
  }

  /** Lets a node fill the width. */
  setFocus(node: number): void {
    if (!this.scene) return;
    this.view.focus = node;
    this.view.rows = rowCount(this.scene.tree, this.view);
    this.stretch();
    if (this.view.flipped) this.scroller.scrollTop = this.scroller.scrollHeight;
    // Keep the focused row in sight.
    const top = this.top(node);
    const context = 3 * rowHeight;
    if (top < this.scroller.scrollTop || top > this.scroller.scrollTop + this.view.height - context) {
      this.scroller.scrollTop = Math.max(0, top - context);
    }
    this.onScroll();
  }

  /** Gives the scroller the height of the graph. */
  private stretch(): void {
    this.spacer.style.height = `${Math.max(this.view.rows * rowHeight, this.view.height)}px`;
  }

  /** Where the row of a node begins in the scroller. */
  private top(node: number): number {
    return flip(this.view, this.view.above + this.scene!.tree.depth[node]!) * rowHeight + this.ground();
  }

  /** Fades the functions, by name, that a search does not match; null ends the search. */
  setMatched(matched: Uint8Array | null): void {
    if (!this.scene) return;
    this.scene.matched = matched;
    this.draw();
  }

  /** Outlines a function wherever it occurs. */
  setSelected(name: string): void {
    if (!this.scene) return;
    const { names } = this.scene.tree;
    this.scene.selected = new Set(name === "" ? [] : names.flatMap((n, id) => (n === name ? [id] : [])));
    this.outline();
  }

  /** Marks the keyboard's node and scrolls to it. */
  setCurrent(node: number): void {
    if (!this.scene) return;
    this.scene.current = node;
    if (node >= 0) {
      const top = this.top(node);
      if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
      const bottom = top + rowHeight - this.view.height;
      if (bottom > this.scroller.scrollTop) this.scroller.scrollTop = bottom;
    }
    this.outline();
  }

  setColors(mode: ColorMode, dark: boolean): void {
    this.colorMode = mode;
    this.colors = palette(dark);
    this.recolor();
    this.draw();
  }

  private recolor(): void {
    if (!this.scene) return;
    this.scene.colors = this.scene.tree.colors[this.colorMode];
    this.scene.above = this.above.map((a) => ({ name: a.name, color: colorOf(a.name, a.binary, this.colorMode) }));
  }

  private resize(): void {
    const { clientWidth, clientHeight } = this.scroller;
    const dpr = window.devicePixelRatio || 1;
    if (clientWidth === this.view.width && clientHeight === this.view.height && this.canvas.width === Math.round(clientWidth * dpr)) return;
    this.view.width = clientWidth;
    this.view.height = clientHeight;
    this.canvas.width = Math.round(clientWidth * dpr);
    this.canvas.height = Math.round(clientHeight * dpr);
    this.canvas.style.width = `${clientWidth}px`;
    this.canvas.style.height = `${clientHeight}px`;
    this.stretch();
    if (this.view.flipped) this.scroller.scrollTop = this.scroller.scrollHeight;
    this.view.scrollTop = this.scroller.scrollTop - this.ground();
    // At once: a resized canvas is blank until it is painted.
    this.changed = true;
    this.paint();
  }

  private readonly onScroll = () => {
    this.view.scrollTop = this.scroller.scrollTop - this.ground();
    this.draw();
  };

  /** The room above a flipped graph that is lower than its box. */
  private ground(): number {
    return this.view.flipped ? Math.max(0, this.view.height - this.view.rows * rowHeight) : 0;
  }

  private readonly onMove = (event: PointerEvent) => {
    if (!this.scene) return;
    const found = hit(this.scene.tree, this.view, event.offsetX, event.offsetY);
    if (found?.node === this.hovered?.node && found?.kind === this.hovered?.kind) return;
    this.hovered = found;
    this.scene.hovered = found && found.kind !== Kind.Above && found.kind !== Kind.Pruned ? found.node : -1;
    this.canvas.style.cursor = found ? "pointer" : "";
    this.events.hover(found);
    this.outline();
  };

  private readonly onLeave = () => {
    if (!this.scene || !this.hovered) return;
    this.hovered = null;
    this.scene.hovered = -1;
    this.events.hover(null);
    this.outline();
  };

  private readonly onClick = (event: MouseEvent) => {
    if (!this.scene) return;
    const found = hit(this.scene.tree, this.view, event.offsetX, event.offsetY);
    if (found) this.events.click(found);
  };

  private readonly onMenu = (event: MouseEvent) => {
    if (!this.scene) return;
    const found = hit(this.scene.tree, this.view, event.offsetX, event.offsetY);
    if (!found) return;
    event.preventDefault();
    this.events.menu(found, event.clientX, event.clientY);
  };

  /** Where a node's row is in the window: for a menu that a key opens. */
  pointOf(node: number): { x: number; y: number } {
    const box = this.canvas.getBoundingClientRect();
    return { x: box.left + 24, y: box.top + Math.max(0, (this.scene ? this.top(node) : 0) - this.scroller.scrollTop) + rowHeight };
  }

  /** The picture as it stands. */
  png(): Promise<Blob | null> {
    return new Promise((resolve) => this.canvas.toBlob(resolve, "image/png"));
  }

  private draw(): void {
    this.changed = true;
    this.outline();
  }

  /** Draws when only what is outlined has changed. */
  private outline(): void {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.paint());
  }

  private paint(): void {
    if (!this.scene || this.view.width === 0) return;
    if (this.changed) layout(this.scene.tree, this.view, this.rects);
    this.painter.paint(this.scene, this.rects, this.colors, window.devicePixelRatio || 1, !this.changed);
    this.changed = false;
  }
}
