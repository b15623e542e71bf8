// Points in time as the API takes them: RFC 3339, Unix seconds with decimals, `now`, `now-90s|15m|1h|7d`.

const unitMs: Record<string, number> = { s: 1e3, m: 60e3, h: 3600e3, d: 86400e3 };

/** A point in time in Unix milliseconds, or null if the text is none. */
export function parseTime(text: string, now: number): number | null {
  const t = text.trim();
  if (t === "now") return now;
  const relative = /^now-(\d+(?:\.\d+)?)([smhd])$/.exec(t);
  if (relative) return now - Number(relative[1]) * unitMs[relative[2]!]!;
  if (/^\d+(\.\d+)?$/.test(t)) return Number(t) * 1e3;
  if (/^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)$/.test(t)) {
    const ms = Date.parse(t);
    return Number.isNaN(ms) ? null : ms;
  }
  return null;
}

export function isRelative(text: string): boolean {
  return text.trim().startsWith("now-");
}

const unitText: Record<string, string> = { s: "s", m: "min", h: "h", d: "d" };

/** What `now-15m` is called as the start of a range that ends now. */
export function lastText(from: string): string {
  const m = /^now-(\d+(?:\.\d+)?)([smhd])$/.exec(from.trim());
  return m ? `Last ${m[1]} ${unitText[m[2]!]}` : from;
}

/** Unix seconds with millisecond decimals, as query parameters carry them. */
export function unixSeconds(ms: number): string {
  return (Math.round(ms) / 1e3).toString();
}

const pad = (n: number) => String(n).padStart(2, "0");

/** Local time as `datetime-local` inputs want it. */
export function localInput(ms: number): string {
  const d = new Date(ms);
  return `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())}T${pad(d.getHours())}:${pad(d.getMinutes())}:${pad(d.getSeconds())}`;
}

export function clock(ms: number): string {
  const d = new Date(ms);
  return `${pad(d.getHours())}:${pad(d.getMinutes())}:${pad(d.getSeconds())}`;
}

/** `14:02:10–14:05:00`, with the date in front when the range is not of today. */
export function rangeText(from: number, to: number, now = Date.now()): string {
  const day = (ms: number) => localInput(ms).slice(0, 10);
  if (day(from) === day(to)) {
    const date = day(from) === day(now) ? "" : day(from) + " ";
    return `${date}${clock(from)}–${clock(to)}`;
  }
  return `${day(from)} ${clock(from)} – ${day(to)} ${clock(to)}`;
}

/** The zone local times are shown in, such as `UTC+2`. */
export function zone(ms = Date.now()): string {
  const minutes = -new Date(ms).getTimezoneOffset();
  if (minutes === 0) return "UTC";
  const abs = Math.abs(minutes);
  return `UTC${minutes < 0 ? "−" : "+"}${Math.floor(abs / 60)}${abs % 60 ? ":" + pad(abs % 60) : ""}`;
}

export function agoText(ms: number, now = Date.now()): string {
  const s = Math.max(0, Math.round((now - ms) / 1e3));
  if (s < 90) return `${s} s ago`;
  if (s < 90 * 60) return `${Math.round(s / 60)} min ago`;
  if (s < 36 * 3600) return `${Math.round(s / 3600)} h ago`;
  return `${Math.round(s / 86400)} d ago`;
}
