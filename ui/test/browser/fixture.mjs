// The server of the browser tests: the real one, with profiles that are made up here. What the page shows can so be
// compared with the API and with `go tool pprof` on the same data.
// @ts-check

import { execFileSync, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { encode } from "./pprof.mjs";

/** @typedef {import("./pprof.mjs").Frame} Frame */
/** @typedef {{ frame: Frame, self: number, kids: Node[] }} Node */

const shares = "/opt/loads/shares";
const libc = "/usr/lib/x86_64-linux-gnu/libc.so.6";
const api = "/usr/local/bin/api";
const kernel = "[kernel.kallsyms]";

/**
 * @param {string} name
 * @param {string} binary
 * @param {number} self in milliseconds
 * @param {Node[]} kids
 * @returns {Node}
 */
const n = (name, binary, self, ...kids) => ({ frame: { name, binary, file: binary === shares ? "/src/loads/shares.c" : binary === api ? "/src/api/main.go" : "" }, self, kids });

/** What each service runs; `before` is true for the hour before the last one. @type {Record<string, (before: boolean) => Node[]>} */
const services = {
  shares: (before) => [n("_start", shares, 0, n("__libc_start_main_impl", libc, 0, n("main", shares, 20,
    n("share_fifty", shares, 4200, n("helper_a", shares, before ? 300 : 900), ...Array.from({ length: 12 }, (_, i) => n(`small_${i}`, shares, 3))),
    n("share_thirty", shares, 2600, n("memcpy", libc, 420)),
    n("share_twenty", shares, 1500, ...(before ? [n("legacy_parse", shares, 400)] : [n("fast_parse", shares, 150)])),
    n("fib", shares, 200, n("fib", shares, 200, n("fib", shares, 400))))))],
  api: () => [n("runtime.goexit", api, 0,
    n("net/http.(*conn).serve", api, 30, n("net/http.serverHandler.ServeHTTP", api, 10,
      n("main.(*server).search", api, 120, n("encoding/json.Marshal", api, 640, n("reflect.Value.Field", api, 210), n("runtime.mallocgc", api, 330)), n("main.rank", api, 900, n("sort.Slice", api, 340, n("main.rank.func1", api, 280)))),
      n("compress/gzip.(*Writer).Write", api, 60, n("compress/flate.(*compressor).deflate", api, 700)))),
    n("runtime.gcBgMarkWorker", api, 20, n("runtime.gcDrain", api, 310, n("runtime.scanobject", api, 420))))],
  kernel: () => [n("entry_SYSCALL_64", kernel, 10, n("do_syscall_64", kernel, 20, n("ksys_read", kernel, 40, n("vfs_read", kernel, 120, n("copy_to_user", kernel, 260))), n("__x64_sys_futex", kernel, 140)))],
  render: () => [
    n("[truncated: no table]", "/usr/lib/jvm/libjvm.so", 0, n("libjvm.so+0x8f3a10", "/usr/lib/jvm/libjvm.so", 380), n("[jit]", "[jit]", 310)),
    n("std::__1::basic_string<char, std::__1::char_traits<char>>::append(char const*, unsigned long)", "/opt/render/bin/render", 240)],
};

/** @param {Node[]} roots @param {number} scale @returns {import("./pprof.mjs").Sample[]} */
function samples(roots, scale) {
  /** @type {import("./pprof.mjs").Sample[]} */
  const out = [];
  /** @param {Node} node @param {Frame[]} above */
  const visit = (node, above) => {
    const stack = [...above, node.frame];
    if (node.self > 0) out.push({ stack, count: Math.max(1, Math.round((node.self * scale) / 10)), nanoseconds: Math.round(node.self * scale) * 1e6 });
    for (const kid of node.kids) visit(kid, stack);
  };
  for (const root of roots) visit(root, []);
  return out;
}

const stepMs = 20e3;

/** Pushes the profiles of all services between two times, and returns when the next is due; what they run changes at `change`.
 * @param {string} url @param {number} from @param {number} to @param {number} change */
async function run(url, from, to, change) {
  let t = from;
  for (const [service, tree] of Object.entries(services)) {
    const profiles = [];
    for (t = from; t < to; t += stepMs) {
      const wave = 1 + 0.3 * Math.sin(t / 3e5 + service.length);
      profiles.push(encode(samples(tree(t < change), wave), t, 10e3));
    }
    if (profiles.length > 0) await push(url, service, profiles);
  }
  return t;
}

/** @param {string} url @param {number} now */
async function fill(url, now) {
  const next = await run(url, now - 7200e3, now - 5e3, now - 3600e3);
  const day = now - 26 * 3600e3;
  const deep = Array.from({ length: 5000 }, (_, i) => ({ name: `level_${i}`, binary: shares, file: "" }));
  await push(url, "deep", [encode([{ stack: deep, count: 100, nanoseconds: 1e9 }], day, 10e3)]);
  await push(url, "stripped", [encode(samples([n("main", "/opt/stripped", 100, n("stripped+0x1234", "/opt/stripped", 900))], 1), day, 10e3)]);
  await report(url, now);
  return next;
}

/** @param {string} url @param {string} service @param {Buffer[]} profiles */
async function push(url, service, profiles) {
  await post(`${url}/push.v1.PusherService/Push`, {
    series: [{
      labels: Object.entries({ __name__: "process_cpu", service_name: service, hostname: "worker-7", exe: `/opt/${service}` }).map(([name, value]) => ({ name, value })),
      samples: profiles.map((p) => ({ rawProfile: p.toString("base64") })),
    }],
  });
}

/** @param {string} url @param {number} now */
async function report(url, now) {
  const account = (/** @type {number} */ k) => ({
    samples_taken: 1000 * k, samples_missed: 4 * k, outcomes: { complete: 900 * k, kernel_only: 60 * k, no_table: 30 * k, jit_end: 9 * k, dropped_ring: k },
    frames: 22000 * k, frames_unnamed: 310 * k, agent_cpu_seconds: 0.04 * k, bpf_run_seconds: 0.01 * k,
  });
  await post(`${url}/api/v1/agents`, { version: "0.1.0", hostname: "worker-7", start_ms: now - 3600e3, window_ms: now - 12e3, cpus: 2, rss_bytes: 48 << 20, bpf_memory_bytes: 6 << 20, sent_ms: Date.now() + 90e3, spool_bytes: 3 << 20, frequency_hz: 9, governor_level: 4, governor_sheds: ["finishing", "records", "samples"], cpu_limit_seconds: 2.4, memory_limit_bytes: 256 << 20, window: account(1), total: account(360) });
}

/** @param {string} url @param {unknown} body */
async function post(url, body) {
  const response = await fetch(url, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  if (!response.ok) throw new Error(`POST ${url}: ${response.status} ${await response.text()}`);
}

/** The go command: sudo often has a PATH of its own, without it. */
export const go = process.env["PATH"]?.split(":").some((dir) => existsSync(join(dir, "go"))) ? "go" : "/usr/local/go/bin/go";

/** Builds and starts a server; with `data` false it stays empty. Its services run until then, and, once `catchUp` was called,
 * until that. @param {{ data?: boolean }} [options] */
export async function start({ data = true } = {}) {
  const dir = await mkdtemp(join(tmpdir(), "pilotlight-ui-"));
  const binary = join(dir, "pageserver");
  const root = fileURLToPath(new URL("../../../", import.meta.url));
  execFileSync(go, ["build", "-o", binary, "./testdata/pageserver"], { cwd: root, env: { ...process.env, CGO_ENABLED: "0", GOFLAGS: "-buildvcs=false" }, stdio: "inherit" });
  // Of what the profiles name, the server has the source of the Go program alone.
  const source = join(dir, "source", "src/api/main.go");
  await mkdir(dirname(source), { recursive: true });
  await writeFile(source, Array.from({ length: 200 }, (_, i) => `\tline ${i + 1} of main.go\n`).join(""));
  const server = spawn(binary, [join(dir, "source")], { stdio: ["pipe", "pipe", "inherit"] });
  const gone = new Promise((resolve) => server.once("exit", resolve));
  const close = async () => {
    server.stdin.end();
    await gone;
    await rm(dir, { recursive: true, force: true });
  };
  const url = await new Promise((resolve, reject) => {
    server.stdout.once("data", (line) => resolve(String(line).trim()));
    server.once("exit", () => reject(new Error("the server ended at once")));
  });
  const began = Date.now();
  let next = began;
  try {
    if (data) next = await fill(url, began);
  } catch (err) {
    await close();
    throw err;
  }
  return { url, close, push: (/** @type {string} */ service, /** @type {Buffer[]} */ profiles) => push(url, service, profiles), catchUp: async () => { next = await run(url, next, Date.now() - 5e3, began - 3600e3); } };
}
