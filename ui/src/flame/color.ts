// Colours: a stable hue per binary (or package), so that the same code has the same colour today, tomorrow,
// and in both themes' graphs. Pure.

export type ColorMode = "binary" | "package";

/** Degrees in OKLCH. The kernel's hue has a gap around it that no other binary falls into. */
const hues = [32, 55, 78, 102, 128, 154, 182, 208, 328, 356];
const kernelHue = 268;
/** Shades of a hue, by lightness and by a few degrees, tell the packages of one binary apart. */
const shades = 5;
const turn = [0, 9, -9, 5, -5];

/** Entries after the hues: the kernel's shades, unnamed code, the root. */
const kernelBase = hues.length * shades;
export const unnamedColor = kernelBase + shades;
export const rootColor = unnamedColor + 1;
/** Frames that end a truncated stack; drawn hatched. */
export const truncatedColor = rootColor + 1;
/** A diff's scale: from much less through the same to much more. */
const changeBase = truncatedColor + 1;
const changeSteps = 5;
const paletteSize = changeBase + 2 * changeSteps + 1;

/** The colour of a difference, from -1 (only in B) through 0 to 1 (only in A). */
export function changeColor(relative: number): number {
  const step = Math.sign(relative) * Math.ceil(Math.min(1, Math.abs(relative)) * changeSteps - 0.1);
  return changeBase + changeSteps + step;
}

/** FNV-1a over UTF-16 code units. */
export function hash(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  // FNV's low bits are weak for short strings: mix the high ones in.
  h ^= h >>> 15;
  h = Math.imul(h, 0x2c1b3c6d);
  return (h ^ (h >>> 13)) >>> 0;
}

const anonymous = "(anonymous namespace)::";

/** The package, namespace or module part of a function name; "" if it has none. */
export function packageOf(name: string): string {
  // By hand: there may be a hundred thousand names.
  const begin = name.startsWith(anonymous) ? anonymous.length : 0;
  let colons = -1;
  let dot = -1; // the first behind the last slash
  for (let i = begin; i < name.length; i++) {
    const c = name[i]!;
    if (c === "(" || c === "<" || c === "[" || c === "{" || c === " ") break;
    if (c === "/") dot = -1;
    else if (c === "." && dot < 0) dot = i;
    else if (c === ":" && colons < 0 && name[i + 1] === ":") colons = i;
  }
  return name.slice(begin, Math.max(begin, colons >= 0 ? colons : dot));
}

export function isKernel(binary: string): boolean {
  return binary.startsWith("[") && binary !== "[vdso]" && binary !== "[jit]";
}

export function isTruncated(name: string): boolean {
  return name.startsWith("[truncated");
}

/** `libfoo.so+0x1234` and `[jit]`: code without a symbol. */
export function isUnnamed(name: string): boolean {
  return name === "[jit]" || (name.includes("+0x") && /^\S*\+0x[0-9a-f]+$/.test(name));
}

/** A palette index for each name. */
export function colorNames(names: readonly string[], binaryOf: Uint32Array, binaries: readonly string[]): Record<ColorMode, Uint8Array> {
  const colors = (mode: ColorMode) => Uint8Array.from(names, (name, i) => colorOf(name, binaries[binaryOf[i]!]!, mode));
  return { binary: colors("binary"), package: colors("package") };
}

export function colorOf(name: string, binary: string, mode: ColorMode): number {
  if (name === "total" && binary === "") return rootColor;
  if (isTruncated(name)) return truncatedColor;
  if (isKernel(binary)) return kernelBase + (hash(name) % shades);
  if (isUnnamed(name)) return unnamedColor;
  const pkg = packageOf(name);
  const key = mode === "package" && pkg !== "" ? pkg : binary;
  const shade = mode === "package" ? name : pkg || name;
  return (hash(key) % hues.length) * shades + (hash(shade) % shades);
}

export interface Palette {
  fill: string[];
  text: string;
  /** For frames that a search does not match. */
  faded: string;
  fadedText: string;
  hatch: string;
  hatchGround: string;
  background: string;
  outline: string;
  accent: string;
}

export function palette(dark: boolean): Palette {
  const fill = new Array<string>(paletteSize);
  const light = dark ? [0.43, 0.47, 0.455, 0.41, 0.49] : [0.83, 0.86, 0.8, 0.85, 0.815];
  const chroma = dark ? 0.08 : 0.075;
  hues.forEach((hue, h) => {
    for (let s = 0; s < shades; s++) fill[h * shades + s] = `oklch(${light[s]} ${chroma} ${hue + turn[s]!})`;
  });
  for (let s = 0; s < shades; s++) fill[kernelBase + s] = `oklch(${light[s]} ${dark ? 0.06 : 0.055} ${kernelHue + turn[s]!})`;
  fill[unnamedColor] = dark ? "oklch(0.40 0.012 80)" : "oklch(0.86 0.012 80)";
  fill[rootColor] = dark ? "oklch(0.34 0.008 80)" : "oklch(0.91 0.006 80)";
  fill[truncatedColor] = dark ? "oklch(0.33 0.004 80)" : "oklch(0.90 0.004 80)";
  for (let step = -changeSteps; step <= changeSteps; step++) {
    // Blue and orange keep apart for eyes that do not tell red from green; lightness stays that of the text's ground.
    const strength = Math.abs(step) / changeSteps;
    const hue = step < 0 ? 250 : 60;
    fill[changeBase + changeSteps + step] = `oklch(${dark ? 0.4 + 0.08 * strength : 0.9 - 0.1 * strength} ${(dark ? 0.105 : 0.12) * strength} ${hue})`;
  }
  return dark
    ? { fill, text: "#f3f1ee", faded: "#292826", fadedText: "#979189", hatch: "#57534e", hatchGround: "#2b2927", background: "#1a1918", outline: "#ffffff", accent: "#ffb074" }
    : { fill, text: "#1d1b19", faded: "#efedea", fadedText: "#6f6a64", hatch: "#c9c4bd", hatchGround: "#f1efec", background: "#ffffff", outline: "#000000", accent: "#c2410c" };
}

/** Hues that can be told apart in a chart, where nothing but a legend names them. */
const lineHues = [35, 250, 145, 85, 325, 195, 285, 115, 0];

/** Colours for the lines of a chart: each label's own if it is free, else the next free one. */
export function seriesColors(labels: readonly string[], dark: boolean): string[] {
  const taken = new Set<number>();
  return labels.map((label) => {
    let h = hash(label) % lineHues.length;
    while (taken.has(h) && taken.size < lineHues.length) h = (h + 1) % lineHues.length;
    taken.add(h);
    return dark ? `oklch(0.62 0.095 ${lineHues[h]})` : `oklch(0.75 0.1 ${lineHues[h]})`;
  });
}
