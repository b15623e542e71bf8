// FlameView: a flame graph on a canvas. Framework-free; owns the canvas, the pointer and the scroll position,
// and reports what the user did. State that is worth a URL comes in through its setters.

import { colorNames, colorOf, palette, type ColorMode } from "./color";
import { Painter, type Scene } from "./draw";
import { hit, Kind, layout, newRects, rowCount, type Hit, type View } from "./layout";
import type { Tree } from "./tree";

export interface Above {
  name: string;
  binary: string;
}

export interface Events {
  hover(hit: Hit | null): void;
  click(hit: Hit): void;
}

export const rowHeight = 20;

export class FlameView {
  private readonly painter: Painter;
  private readonly observer: ResizeObserver;
  private readonly rects = newRects();
  private readonly view: View = { focus: 0, above: 0, width: 0, height: 0, scrollTop: 0, rowHeight };
  private scene: Scene | null = null;
  private above: readonly Above[] = [];
  private colorMode: ColorMode = "binary";
  private colors = palette(false);
  private frame = 0;
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
  ) {
    const context = canvas.getContext("2d", { alpha: false });
    if (!context) throw new Error("this browser gives no 2D canvas");
    this.painter = new Painter(context);
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(scroller);
    scroller.addEventListener("scroll", this.onScroll, { passive: true });
    canvas.addEventListener("pointermove", this.onMove);
    canvas.addEventListener("pointerleave", this.onLeave);
    canvas.addEventListener("click", this.onClick);
    this.resize();
  }

  close(): void {
    cancelAnimationFrame(this.frame);
    this.observer.disconnect();
    this.scroller.removeEventListener("scroll", this.onScroll);
    this.canvas.removeEventListener("pointermove", this.onMove);
    this.canvas.removeEventListener("pointerleave", this.onLeave);
    this.canvas.removeEventListener("click", this.onClick);
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
      colors: new Uint8Array(0),
      matched: null,
      selected: "",
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
    const height = rowCount(this.scene.tree, this.view) * rowHeight;
    this.spacer.style.height = `${Math.max(height, this.view.height)}px`;
    // Keep the focused row in sight.
    const top = (this.view.above + this.scene.tree.depth[node]!) * rowHeight;
    const context = 3 * rowHeight;
    if (top < this.scroller.scrollTop || top > this.scroller.scrollTop + this.view.height - context) {
      this.scroller.scrollTop = Math.max(0, top - context);
    }
    this.onScroll();
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
    this.scene.selected = name;
    this.draw();
  }

  /** Marks the keyboard's node and scrolls to it. */
  setCurrent(node: number): void {
    if (!this.scene) return;
    this.scene.current = node;
    if (node >= 0) {
      const top = (this.view.above + this.scene.tree.depth[node]!) * rowHeight;
      if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
      const bottom = top + rowHeight - this.view.height;
      if (bottom > this.scroller.scrollTop) this.scroller.scrollTop = bottom;
    }
    this.draw();
  }

  setColors(mode: ColorMode, dark: boolean): void {
    this.colorMode = mode;
    this.colors = palette(dark);
    this.recolor();
    this.draw();
  }

  private recolor(): void {
    if (!this.scene) return;
    this.scene.colors = colorNames(this.scene.tree, this.colorMode);
    this.scene.above = this.above.map((a) => ({ name: a.name, color: colorOf(a.name, a.binary, this.colorMode) }));
  }

  private resize(): void {
    const { clientWidth, clientHeight } = this.scroller;
    const dpr = window.devicePixelRatio || 1;
    this.view.width = clientWidth;
    this.view.height = clientHeight;
    this.canvas.width = Math.round(clientWidth * dpr);
    this.canvas.height = Math.round(clientHeight * dpr);
    this.canvas.style.width = `${clientWidth}px`;
    this.canvas.style.height = `${clientHeight}px`;
    // At once: a resized canvas is blank until it is painted.
    this.paint();
  }

  private readonly onScroll = () => {
    this.view.scrollTop = this.scroller.scrollTop;
    this.draw();
  };

  private readonly onMove = (event: PointerEvent) => {
    if (!this.scene) return;
    const found = hit(this.scene.tree, this.view, event.offsetX, event.offsetY);
    if (found?.node === this.hovered?.node && found?.kind === this.hovered?.kind) return;
    this.hovered = found;
    this.scene.hovered = found && found.kind !== Kind.Above && found.kind !== Kind.Pruned ? found.node : -1;
    this.canvas.style.cursor = found ? "pointer" : "";
    this.events.hover(found);
    this.draw();
  };

  private readonly onLeave = () => {
    if (!this.scene || !this.hovered) return;
    this.hovered = null;
    this.scene.hovered = -1;
    this.events.hover(null);
    this.draw();
  };

  private readonly onClick = (event: MouseEvent) => {
    if (!this.scene) return;
    const found = hit(this.scene.tree, this.view, event.offsetX, event.offsetY);
    if (found) this.events.click(found);
  };

  private draw(): void {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.paint());
  }

  private paint(): void {
    if (!this.scene || this.view.width === 0) return;
    layout(this.scene.tree, this.view, this.rects);
    this.painter.paint(this.scene, this.rects, this.colors, window.devicePixelRatio || 1);
  }
}
