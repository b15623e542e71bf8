// A server with made-up profiles for the browser test when no live one is given. It serves the built bundle
// with the same policy as ui.go and answers the API from one small, fixed call tree.
// @ts-check

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const dist = fileURLToPath(new URL("../../dist/", import.meta.url));
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/** @type {Record<string, string>} */
const types = { ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html" };

/** @typedef {{ name: string, file: string, self: number, kids: Node[] }} Node */

/**
 * @param {string} name
 * @param {string} file
 * @param {number} self in milliseconds
 * @param {Node[]} kids
 * @returns {Node}
 */
const n = (name, file, self, ...kids) => ({ name, file, self: self * 1e6, kids });
const K = "[kernel.kallsyms]";
const small = Array.from({ length: 12 }, (_, i) => n(`small_${i}`, "/opt/loads/shares", 3));

/** @param {number} scale */
function tree(scale) {
  const go = "/usr/local/bin/api";
  const recursion = n("fib", "/opt/loads/shares", 200, n("fib", "/opt/loads/shares", 200, n("fib", "/opt/loads/shares", 400)));
  const root = n("total", "", 0,
    n("_start", "/opt/loads/shares", 0, n("__libc_start_main_impl", "/usr/lib/x86_64-linux-gnu/libc.so.6", 0, n("main", "/opt/loads/shares", 20,
      n("share_fifty", "/opt/loads/shares", 4200, n("helper_a", "/opt/loads/shares", 900), ...small),
      n("share_thirty", "/opt/loads/shares", 2600, n("memcpy", "/usr/lib/x86_64-linux-gnu/libc.so.6", 420)),
      n("share_twenty", "/opt/loads/shares", 1500), recursion))),
    n("runtime.goexit", go, 0,
      n("net/http.(*conn).serve", go, 30, n("net/http.serverHandler.ServeHTTP", go, 10,
        n("main.(*server).search", go, 120, n("encoding/json.Marshal", go, 640, n("reflect.Value.Field", go, 210), n("runtime.mallocgc", go, 330)), n("main.rank", go, 900, n("sort.Slice", go, 340, n("main.rank.func1", go, 280)))),
        n("compress/gzip.(*Writer).Write", go, 60, n("compress/flate.(*compressor).deflate", go, 700)))),
      n("runtime.gcBgMarkWorker", go, 20, n("runtime.gcDrain", go, 310, n("runtime.scanobject", go, 420)))),
    n("entry_SYSCALL_64", K, 10, n("do_syscall_64", K, 20, n("ksys_read", K, 40, n("vfs_read", K, 120, n("copy_to_user", K, 260))), n("__x64_sys_futex", K, 140))),
    n("[truncated: no table]", "/usr/lib/jvm/libjvm.so", 0, n("libjvm.so+0x8f3a10", "/usr/lib/jvm/libjvm.so", 380), n("[jit]", "[jit]", 310)),
    n("std::__1::basic_string<char, std::__1::char_traits<char>>::append(char const*, unsigned long)", "/opt/render/bin/render", 240),
  );
  /** @param {Node} node */
  const grow = (node) => { node.self = Math.round(node.self * scale); node.kids.forEach(grow); };
  grow(root);
  return root;
}

/** @param {Node} node @returns {number} */
const total = (node) => node.self + node.kids.reduce((a, k) => a + total(k), 0);

/**
 * @param {Node} root
 * @param {boolean} prune
 */
function columns(root, prune) {
  const limit = prune ? total(root) * 0.0005 : 0;
  /** @type {{unit: string, total: number, names: string[], files: number[], file_names: string[], depth: number[], name: number[], self: number[], pruned_count: number[], pruned_value: number[]}} */
  const g = { unit: "nanoseconds", total: total(root), names: [], files: [], file_names: [""], depth: [], name: [], self: [], pruned_count: [], pruned_value: [] };
  /** @type {Map<string, number>} */
  const ids = new Map();
  /** @param {Node} node @param {number} depth */
  const visit = (node, depth) => {
    const key = node.name + "\n" + node.file;
    let id = ids.get(key);
    if (id === undefined) {
      id = g.names.length;
      ids.set(key, id);
      g.names.push(node.name);
      if (!g.file_names.includes(node.file)) g.file_names.push(node.file);
      g.files.push(g.file_names.indexOf(node.file));
    }
    const kids = [...node.kids].sort((a, b) => total(b) - total(a));
    const kept = kids.filter((k) => total(k) >= limit);
    const left = kids.filter((k) => total(k) < limit);
    g.depth.push(depth);
    g.name.push(id);
    g.self.push(node.self);
    g.pruned_count.push(left.length);
    g.pruned_value.push(left.reduce((a, k) => a + total(k), 0));
    for (const k of kept) visit(k, depth + 1);
  };
  visit(root, 0);
  return g;
}

/** @param {Node} root */
function top(root) {
  /** @type {Map<string, {function: string, binary: string, file: string, self: number, total: number}>} */
  const rows = new Map();
  /** @param {Node} node @param {string[]} above */
  const visit = (node, above) => {
    let row = rows.get(node.name);
    if (!row) rows.set(node.name, (row = { function: node.name, binary: node.file, file: node.name.startsWith("share") ? "/src/loads/shares.c" : "", self: 0, total: 0 }));
    row.self += node.self;
    if (!above.includes(node.name)) row.total += total(node);
    for (const k of node.kids) visit(k, [...above, node.name]);
  };
  for (const k of root.kids) visit(k, []);
  return { profiles: 90, damaged: 0, unit: "nanoseconds", total: total(root), rows: [...rows.values()].sort((a, b) => b.self - a.self || b.total - a.total) };
}

/** @param {URL} url @param {number} now */
function answer(url, now) {
  const p = url.searchParams;
  const [from, to] = [Number(p.get("from")) * 1e3, Number(p.get("to")) * 1e3];
  const nothing = /nothing/.test(p.get("query") ?? "");
  switch (url.pathname.replace("/api/v1/", "")) {
    case "types": return { types: ["process_cpu:cpu:nanoseconds:cpu:nanoseconds", "process_cpu:samples:count:cpu:nanoseconds"] };
    case "labels": return { labels: ["comm", "exe", "hostname", "pid", "service_name"] };
    case "label/service_name/values": return { values: ["api", "kernel", "render", "shares"] };
    case "flamegraph": {
      let root = tree(nothing ? 0 : Math.min(1, (to - from) / 900e3));
      const path = (p.get("root") ?? "").split(";").filter(Boolean);
      for (const name of path) root = root.kids.find((k) => k.name === name) ?? n("total", "", 0);
      return columns(root, path.length === 0);
    }
    case "top": return top(tree(nothing ? 0 : Math.min(1, (to - from) / 900e3)));
    case "series": {
      const step = Number(/^(\d+)s$/.exec(p.get("step") ?? "")?.[1]) * 1e3;
      const line = (/** @type {string} */ name, /** @type {(x: number) => number} */ cores) => {
        const points = [];
        for (let t = Math.floor(from / step) * step; t < Math.min(to, now); t += step) points.push([t, Math.round(cores(t / 60e3) * step * 1e6)]);
        return { labels: { service_name: name }, points };
      };
      const wave = (/** @type {number} */ base, /** @type {number} */ speed) => (/** @type {number} */ x) => base * (1 + 0.35 * Math.sin(x * speed) + 0.15 * Math.sin(x * speed * 7.3));
      return {
        unit: "nanoseconds", step_ms: step,
        series: nothing ? [] : [line("shares", wave(0.9, 0.5)), line("api", wave(0.42, 1.1)), line("kernel", wave(0.06, 2)), line("render", (x) => (x % 9 < 4 ? 0.16 : 0.02)), line("postgres@14-main", wave(0.11, 0.3)), line("cron", (x) => (x % 5 < 0.4 ? 0.2 : 0))],
      };
    }
    case "agents": {
      const account = (/** @type {number} */ k) => ({
        samples_taken: 1000 * k, samples_missed: 4 * k, outcomes: { complete: 900 * k, kernel_only: 60 * k, no_table: 30 * k, jit_end: 9 * k, dropped_ring: k },
        frames: 22000 * k, frames_unnamed: 310 * k, agent_cpu_seconds: 0.04 * k, bpf_run_seconds: 0.01 * k,
      });
      return { agents: [{ version: "0.1.0", hostname: "worker-7", start_ms: now - 3600e3, window_ms: now - 12e3, cpus: 2, frequency_hz: 19, rss_bytes: 48 << 20, bpf_memory_bytes: 6 << 20, window: account(1), total: account(360), last_report_ms: now - 2e3 }] };
    }
    default: return null;
  }
}

/** Starts the server on a free port of the loopback. */
export async function start() {
  const server = createServer(async (request, response) => {
    const url = new URL(request.url ?? "/", "http://fixture");
    if (url.pathname.startsWith("/api/")) {
      response.setHeader("Content-Type", "application/json");
      const body = url.searchParams.get("query")?.includes("bad") ? null : answer(url, Date.now());
      if (!body) response.statusCode = 400;
      response.setHeader("Content-Encoding", "gzip");
      response.end(gzipSync(JSON.stringify(body ?? { error: { code: "bad_request", message: "query is malformed: close the brace", param: "query", request_id: "req-4711" } })));
      return;
    }
    const name = ["/", "/explore", "/targets"].includes(url.pathname) ? "index.html" : url.pathname;
    response.setHeader("Content-Security-Policy", policy);
    try {
      const body = await readFile(join(dist, name));
      response.setHeader("Content-Type", types[extname(name)] ?? "application/octet-stream");
      response.end(body);
    } catch {
      response.statusCode = 404;
      response.end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(undefined)));
  const address = server.address();
  if (!address || typeof address === "string") throw new Error("the fixture server has no port");
  return { url: `http://127.0.0.1:${address.port}`, close: () => server.close() };
}
