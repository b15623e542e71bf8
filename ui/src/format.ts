// Numbers as people read them. Thin spaces keep a number and its unit together.

const space = "\u202f";

/** Three significant digits, without an exponent. */
export function digits(n: number): string {
  const abs = Math.abs(n);
  if (abs >= 100 || n === 0) return n.toFixed(0);
  if (abs >= 10) return n.toFixed(1);
  if (abs >= 0.01) return n.toFixed(2);
  return n.toPrecision(1);
}

/** Steps are [from which value, unit, size of the unit if that is another], largest first. */
function scaled(n: number, steps: [number, string, number?][]): string {
  const [from, unit, size = from] = steps.find(([from]) => Math.abs(n) >= from) ?? steps[steps.length - 1]!;
  return digits(n / size) + space + unit;
}

/** A value in the unit of a profile type. */
export function value(n: number, unit: string): string {
  switch (unit) {
    case "nanoseconds":
      if (n === 0) return "0" + space + "s";
      // CPU time is compared in seconds as long as they can be read.
      return scaled(n, [[20 * 86400e9, "d", 86400e9], [20 * 3600e9, "h", 3600e9], [1000e9, "min", 60e9], [1e9, "s"], [1e6, "ms"], [1e3, "µs"], [1, "ns"]]);
    case "bytes":
      return bytes(n);
    default:
      return count(n);
  }
}

export function count(n: number): string {
  if (Math.abs(n) < 10000) return String(Math.round(n));
  return scaled(n, [[1e9, "G"], [1e6, "M"], [1e3, "k"]]);
}

export function bytes(n: number): string {
  if (n === 0) return "0" + space + "B";
  return scaled(n, [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]]);
}

/** part of whole in per cent; "–" when there is no whole. */
export function percent(part: number, whole: number): string {
  if (!(whole > 0)) return "–";
  const p = (100 * part) / whole;
  if (p === 0) return "0" + space + "%";
  if (p < 0.01) return "<0.01" + space + "%";
  if (p > 99.99 && p < 100) return ">99.9" + space + "%";
  return (p >= 99.95 ? "100" : p >= 10 ? p.toFixed(1) : p.toFixed(2)) + space + "%";
}
