// Paints rectangles. Knows pixels and colours; what is where comes from layout.ts.

import { isUnnamed, truncatedColor, type Palette } from "./color";
import { Kind, type Rects, type View } from "./layout";
import { delta, type Tree } from "./tree";

export interface Scene {
  tree: Tree;
  view: View;
  /** What 100 % is: the total of the whole graph, of which the tree may be a part. */
  whole: number;
  /** Functions of the rows above the tree's root. */
  above: readonly { name: string; color: number }[];
  /** The palette's entry for each name; */
  colors: Uint8Array;
  /** of a diff, the one for each node. */
  change: ((node: number) => number) | null;
  /** Per name, or null without a search. */
  matched: Uint8Array | null;
  /** Per name: those that are outlined wherever they occur. */
  selected: ReadonlySet<number>;
  /** Node under the pointer and the one the keyboard is on; -1 for none. */
  hovered: number;
  current: number;
}

const fontSize = 12;
export const font = `${fontSize}px ui-sans-serif, system-ui, sans-serif`;
const padding = 4;
const minLabel = 24;
/** Frames that are wider have a hairline of background behind them. */
const touching = 3;

/** Fills beyond the palette's own. */
const prunedFill = (palette: Palette) => palette.fill.length;
const fadedFill = (palette: Palette) => palette.fill.length + 1;

export class Painter {
  private readonly hatches = new Map<string, CanvasPattern>();
  private wide = new Uint32Array(0);
  private fills = new Uint16Array(0);
  private readonly widths = new Map<string, number>();
  private image: ImageData | null = null;
  private colors: { of: Palette; rgba: Uint32Array } | null = null;

  /** All but the outlines, kept: a pointer that moves changes nothing of it. */
  private readonly c: CanvasRenderingContext2D;

  constructor(private readonly target: CanvasRenderingContext2D) {
    const c = document.createElement("canvas").getContext("2d", { alpha: false });
    if (!c) throw new Error("this browser gives no 2D canvas");
    this.c = c;
  }

  /** Draws a scene; with `outlinesOnly` nothing but those has changed since it was drawn last. */
  paint(scene: Scene, rects: Rects, palette: Palette, dpr: number, outlinesOnly: boolean): void {
    const { target } = this;
    if (!outlinesOnly) this.picture(scene, rects, palette, dpr);
    target.setTransform(1, 0, 0, 1, 0, 0);
    target.drawImage(this.c.canvas, 0, 0);
    target.setTransform(dpr, 0, 0, dpr, 0, 0);
    this.outlines(scene, rects, palette);
  }

  private picture(scene: Scene, rects: Rects, palette: Palette, dpr: number): void {
    const { c } = this;
    const { width, height } = this.target.canvas;
    if (c.canvas.width !== width || c.canvas.height !== height) {
      c.canvas.width = width;
      c.canvas.height = height;
    }
    const h = scene.view.rowHeight;
    c.setTransform(dpr, 0, 0, dpr, 0, 0);
    const wide = this.slivers(scene, rects, palette, dpr);
    // Fills, batched by colour: a counting sort, then one fillStyle per colour.
    const { fills } = this;
    const starts = new Uint32Array(fadedFill(palette) + 2);
    for (let w = 0; w < wide.length; w++) starts[fills[w]! + 1]!++;
    for (let k = 1; k < starts.length; k++) starts[k] = starts[k]! + starts[k - 1]!;
    const order = new Uint32Array(wide.length);
    const at = starts.slice();
    for (let w = 0; w < wide.length; w++) order[at[fills[w]!]!++] = wide[w]!;
    for (let k = 0; k < starts.length - 1; k++) {
      if (starts[k] === starts[k + 1]) continue;
      c.fillStyle = this.style(k, palette, dpr);
      for (let o = starts[k]!; o < starts[k + 1]!; o++) {
        const i = order[o]!;
        c.fillRect(rects.x[i]!, rects.y[i]!, rects.width[i]! - 1, h - 1);
      }
    }

    // Frames above the focus are context: veil them.
    c.fillStyle = palette.background;
    c.globalAlpha = 0.45;
    for (const i of wide) {
      if (rects.kind[i] === Kind.Ancestor || rects.kind[i] === Kind.Above) c.fillRect(rects.x[i]!, rects.y[i]!, rects.width[i]!, h - 1);
    }
    c.globalAlpha = 1;

    c.font = font;
    c.textBaseline = "middle";
    for (const i of wide) {
      if (rects.width[i]! < minLabel || rects.kind[i] === Kind.Run) continue;
      this.label(scene, rects, i, palette);
    }
  }

  /**
   * Paints the background and the frames that are a few pixels wide. There are tens of thousands of them in a large graph,
   * and a call of the canvas for each costs ten times what it does to set their pixels. The lines of a row are all alike:
   * one is made, and copied. Returns the others, and has their fills in this.fills.
   */
  private slivers(scene: Scene, rects: Rects, palette: Palette, dpr: number): Uint32Array {
    const { c } = this;
    const { width, height } = c.canvas;
    if (this.image?.width !== width || this.image.height !== height) this.image = c.createImageData(width, height);
    if (this.wide.length < rects.count) {
      this.wide = new Uint32Array(rects.count * 2);
      this.fills = new Uint16Array(rects.count * 2);
    }
    const { wide, fills } = this;
    const { above, matched, change, colors } = scene;
    const { name } = scene.tree;
    const { x, y, width: widths, node: nodes, kind: kinds, count } = rects;
    const pixels = new Uint32Array(this.image.data.buffer);
    const rgba = this.rgba(palette);
    const background = rgba[rgba.length - 1]!;
    pixels.fill(background);
    const line = new Uint32Array(width);
    let n = 0;
    for (let i = 0; i < count; ) {
      const top = y[i]!;
      line.fill(background);
      for (; i < count && y[i] === top; i++) {
        const node = nodes[i]!;
        const kind = kinds[i]!;
        let fill: number;
        if (kind === Kind.Pruned) fill = prunedFill(palette);
        else if (kind === Kind.Above) fill = above[node]!.color;
        else if (matched && !matched[name[node]!]) fill = fadedFill(palette);
        else fill = change ? change(node) : colors[name[node]!]!;
        if (widths[i]! > touching) {
          fills[n] = fill;
          wide[n++] = i;
          continue;
        }
        const color = rgba[fill]!;
        let at = Math.round(x[i]! * dpr);
        const right = Math.round((x[i]! + widths[i]!) * dpr);
        do line[at] = color;
        while (++at < right); // what is beyond the last pixel is ignored
      }
      const bottom = Math.min(height, Math.round((top + scene.view.rowHeight - 1) * dpr));
      for (let at = Math.max(0, Math.round(top * dpr)); at < bottom; at++) pixels.set(line, at * width);
    }
    c.putImageData(this.image, 0, 0);
    return wide.subarray(0, n);
  }

  /** What fills an entry of the palette, or one of the two beyond it. */
  private style(fill: number, palette: Palette, dpr: number): CanvasPattern | string {
    if (fill === prunedFill(palette)) return this.hatch(palette, palette.hatchGround, dpr);
    if (fill === fadedFill(palette)) return palette.faded;
    return fill === truncatedColor ? this.hatch(palette, palette.fill[fill]!, dpr) : palette.fill[fill]!;
  }

  /** The palette as pixels: its fills, what stands for the hatched and the faded ones, and at the end the background. */
  private rgba(palette: Palette): Uint32Array {
    if (this.colors?.of === palette) return this.colors.rgba;
    const all = [...palette.fill, palette.hatchGround, palette.faded, palette.background];
    const strip = document.createElement("canvas");
    strip.width = all.length;
    strip.height = 1;
    const s = strip.getContext("2d", { willReadFrequently: true });
    all.forEach((color, i) => {
      if (!s) return;
      s.fillStyle = color;
      s.fillRect(i, 0, 1, 1);
    });
    const rgba = s ? new Uint32Array(s.getImageData(0, 0, all.length, 1).data.buffer) : new Uint32Array(all.length);
    this.colors = { of: palette, rgba };
    return rgba;
  }

  private label(scene: Scene, rects: Rects, i: number, palette: Palette): void {
    const { c } = this;
    const { tree } = scene;
    const node = rects.node[i]!;
    let name: string;
    c.fillStyle = palette.text;
    if (rects.kind[i] === Kind.Above) name = scene.above[node]!.name;
    else if (rects.kind[i] === Kind.Pruned) {
      const share = (100 * tree.prunedValue[node]!) / scene.whole;
      name = `${tree.prunedCount[node]} functions, ${share.toFixed(share < 1 ? 2 : 1)} %`;
    } else {
      const id = tree.name[node]!;
      name = tree.names[id]!;
      if (scene.matched && !scene.matched[id]) c.fillStyle = palette.fadedText;
      if (tree.b) {
        name = this.withChange(name, changeText(delta(tree, node), scene.whole), rects.width[i]! - 2 * padding);
      }
    }
    const room = rects.width[i]! - 2 * padding;
    const text = this.fit(name, room);
    if (text) c.fillText(text, rects.x[i]! + padding, rects.y[i]! + scene.view.rowHeight / 2);
  }

  /** A difference is told in numbers before the name is told in full. */
  private withChange(name: string, change: string, room: number): string {
    const left = room - this.measure(` ${change}`);
    const text = left > 0 ? this.fit(name, left) : "";
    if (text !== "") return `${text} ${change}`;
    if (this.measure(change) <= room) return change;
    // Half a number would be another one: there the sign has to do.
    const sign = change[0]!;
    return sign + this.fit(name, room - this.measure(sign));
  }

  /** The name, or less of it, or as much of the least as there is room for. */
  private fit(name: string, room: number): string {
    if (this.measure(name) <= room) return name;
    const qualified = shortName(name);
    if (this.measure(qualified) <= room) return qualified;
    const short = lastName(qualified);
    if (this.measure(short) <= room) return short;
    const ellipsis = this.measure("…");
    let width = 0;
    for (let k = 0; k < short.length; k++) {
      width += this.measure(short[k]!);
      if (width + ellipsis > room) return k >= 2 ? short.slice(0, k) + "…" : "";
    }
    return short;
  }

  private measure(text: string): number {
    let w = this.widths.get(text);
    if (w === undefined) {
      if (this.widths.size > 20000) this.widths.clear();
      w = this.c.measureText(text).width;
      this.widths.set(text, w);
    }
    return w;
  }

  private outlines(scene: Scene, rects: Rects, palette: Palette): void {
    const c = this.target;
    const { tree } = scene;
    const h = scene.view.rowHeight;
    for (let i = 0; i < rects.count; i++) {
      const node = rects.node[i]!;
      const kind = rects.kind[i]!;
      if (kind !== Kind.Node && kind !== Kind.Ancestor) continue;
      const current = node === scene.current;
      if (!current && node !== scene.hovered && !scene.selected.has(tree.name[node]!)) continue;
      c.lineWidth = current ? 2 : 1;
      c.strokeStyle = node === scene.hovered && !current ? palette.outline : palette.accent;
      const inset = c.lineWidth / 2;
      c.strokeRect(rects.x[i]! + inset, rects.y[i]! + inset, Math.max(rects.width[i]! - 1 - 2 * inset, 1), h - 1 - 2 * inset);
    }
  }

  private hatch(palette: Palette, ground: string, dpr: number): CanvasPattern | string {
    const key = `${ground} ${palette.hatch} ${dpr}`;
    let pattern = this.hatches.get(key);
    if (pattern) return pattern;
    const size = 8;
    const tile = document.createElement("canvas");
    tile.width = tile.height = size * dpr;
    const t = tile.getContext("2d");
    if (!t) return ground;
    t.scale(dpr, dpr);
    t.fillStyle = ground;
    t.fillRect(0, 0, size, size);
    t.strokeStyle = palette.hatch;
    t.lineWidth = 1.2;
    t.beginPath();
    for (const x of [-size, 0, size]) {
      t.moveTo(x - 1, size + 1);
      t.lineTo(x + size + 1, -1);
    }
    t.stroke();
    const made = this.c.createPattern(tile, "repeat");
    if (!made) return ground;
    made.setTransform(new DOMMatrix().scale(1 / dpr));
    this.hatches.set(key, made);
    return made;
  }
}

/** A signed share of the whole: `+1.2 %`, `−0.30 %`, `±0`. */
export function changeText(value: number, whole: number): string {
  const share = whole > 0 ? (100 * value) / whole : 0;
  if (Math.abs(share) < 0.005) return "±0";
  return `${share > 0 ? "+" : "−"}${Math.abs(share).toFixed(Math.abs(share) < 1 ? 2 : 1)}\u202f%`;
}

/** A name without paths and namespaces: `http.(*conn).serve` of `net/http.(*conn).serve`. */
export function shortName(name: string): string {
  // Template and parameter lists may hold slashes and colons of their own: look only in front of them.
  const head = name.split(/[(<\[{ ]/, 1)[0]!;
  const cut = Math.max(head.lastIndexOf("/") + 1, head.lastIndexOf("::") + (head.includes("::") ? 2 : 1));
  return cut > 0 && cut < name.length ? name.slice(cut) : name;
}

/** A Go name without package and receiver: `serve` of `http.(*conn).serve`, `serve.func1` of `http.serve.func1`. */
export function lastName(name: string): string {
  const method = name.indexOf(").");
  if (/^[\w-]+\.\(/.test(name) && method > 0) return name.slice(method + 2);
  if (isUnnamed(name)) return name;
  const m = /^[\w-]+\.([A-Za-z_].*)$/.exec(name);
  return m ? m[1]! : name;
}
