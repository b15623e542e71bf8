// Figures of the page beside other tools, as CPU time of the browser's main thread: `make bench-ui`. One profile of
// 10, 10 k, 100 k and 1 M call tree nodes is given to each of them; shown are loading the page with the first render
// (decoding included) and a zoom, in ms, and the heap after a collection. What ten nodes take is the page by itself.
// BENCH_NODES says otherwise; PPROF=0 and SPEEDSCOPE=0 leave those out.
// Then what it takes from a cold page, one click included, to the flame graph of the busiest service of the last hour
// with BENCH_PROFILES profiles stored.
// @ts-check

import { spawn } from "node:child_process";
import { createReadStream, existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, extname, join } from "node:path";
import { launch } from "./browser.mjs";
import { go, start } from "./fixture.mjs";
import { encode } from "./pprof.mjs";

const sizes = (process.env["BENCH_NODES"] ?? "10,10000,100000,1000000").split(",").map(Number).filter((n) => n > 0);
const stored = Number(process.env["BENCH_PROFILES"] ?? "15000");
const runs = 3;

/** @typedef {import("./pprof.mjs").Frame} Frame */
/** @typedef {import("playwright-core").Page} Page */

/** mulberry32: the same profile each time. @param {number} seed */
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Stacks with about so many nodes: 20 to 60 deep, sharing their beginnings. @param {number} nodes */
function stacks(nodes) {
  const next = random(7);
  const names = Array.from({ length: Math.min(20000, nodes / 5) }, (_, i) => ({ name: `pkg${i % 97}.(*Type${i % 331}).Method${i}`, binary: `/usr/lib/lib${i % 40}.so`, file: "" }));
  const pick = () => names[Math.floor(next() * next() * names.length)] ?? { name: "f", binary: "", file: "" };
  /** @type {import("./pprof.mjs").Sample[]} */
  const out = [];
  /** @type {Frame[]} */
  let stack = [];
  for (let made = 0; made < nodes; ) {
    stack = stack.slice(0, Math.floor(Math.sqrt(next()) * stack.length));
    const depth = Math.max(stack.length + 1, Math.min(60, stack.length + 1 + Math.floor(next() * 9)));
    while (stack.length < depth) {
      stack.push(pick());
      made++;
    }
    const count = Math.ceil(10 ** (next() * 3));
    out.push({ stack: [...stack], count, nanoseconds: count * 1e7 });
  }
  return out;
}

/** CPU time of the main thread so far, in ms. @param {import("playwright-core").CDPSession} cdp */
async function cpu(cdp) {
  const { metrics } = await cdp.send("Performance.getMetrics");
  return 1e3 * (metrics.find((m) => m.name === "TaskDuration")?.value ?? 0);
}

/** @param {Page} page @param {() => Promise<unknown>} act */
async function cost(page, act) {
  const cdp = await page.context().newCDPSession(page);
  await cdp.send("Performance.enable", { timeDomain: "threadTicks" });
  const before = await cpu(cdp);
  await act();
  await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => resolve(undefined)))));
  const spent = (await cpu(cdp)) - before;
  await cdp.detach();
  return spent;
}

/** @param {number[]} list */
const median = (list) => list.sort((a, b) => a - b)[list.length >> 1] ?? NaN;

/**
 * @param {import("playwright-core").Browser} browser @param {string} url
 * @param {(page: Page) => Promise<unknown>} rendered @param {(page: Page) => Promise<unknown>} zoom
 * @param {(page: Page) => Promise<unknown>} [prepare]
 */
async function measure(browser, url, rendered, zoom, prepare) {
  /** @type {{first: number[], zoom: number[], heap: number[]}} */
  const all = { first: [], zoom: [], heap: [] };
  for (let i = 0; i < runs; i++) {
    const page = await browser.newPage({ viewport: { width: 1600, height: 900 } });
    page.setDefaultTimeout(150e3);
    try {
      await prepare?.(page);
      all.first.push(await cost(page, async () => {
        await page.goto(url);
        await rendered(page);
      }));
      all.zoom.push(await cost(page, () => zoom(page)));
      const cdp = await page.context().newCDPSession(page);
      await cdp.send("HeapProfiler.collectGarbage");
      const heap = await cdp.send("Runtime.getHeapUsage");
      all.heap.push((heap.usedSize + ((/** @type {{ backingStorageSize?: number }} */ (heap)).backingStorageSize ?? 0)) / 1e6);
    } catch (err) {
      return { error: err instanceof Error ? (err.message.split("\n")[0] ?? "") : String(err) };
    } finally {
      await page.close();
    }
  }
  return { first: median(all.first), zoom: median(all.zoom), heap: median(all.heap) };
}

/** @param {string} what @param {number} nodes @param {{first: number, zoom: number, heap: number} | {error: string}} figures */
const print = (what, nodes, figures) => console.log(`${what.padEnd(12)}${String(nodes).padStart(9)}  ${"error" in figures ? figures.error : `${figures.first.toFixed(0).padStart(7)} ms first  ${figures.zoom.toFixed(0).padStart(6)} ms zoom  ${figures.heap.toFixed(0).padStart(5)} MB heap`}`);

/** Where speedscope's built page is. @returns {string} */
function speedscopeDir() {
  return join(dirname(createRequire(import.meta.url).resolve("speedscope/package.json")), "dist", "release");
}

const types = /** @type {Record<string, string>} */ ({ ".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".wasm": "application/wasm" });

/** Serves a folder and one file beside it as /profile.pb.gz. @param {string} dir @param {string} file */
async function serve(dir, file) {
  const server = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url ?? "/", "http://x").pathname);
    const from = path === "/profile.pb.gz" ? file : join(dir, path === "/" ? "index.html" : path);
    if (!existsSync(from)) return void response.writeHead(404).end();
    response.setHeader("Content-Type", types[extname(from)] ?? "application/octet-stream");
    createReadStream(from).pipe(response);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(undefined)));
  const address = server.address();
  return { server, url: `http://127.0.0.1:${typeof address === "object" && address ? address.port : 0}` };
}

/**
 * A machine's last hour: a profile for each of its processes and each window of 10 s.
 * @param {Awaited<ReturnType<typeof start>>} own @param {number} profiles
 */
async function fillHour(own, profiles) {
  const windows = 350;
  const processes = Math.ceil(profiles / windows);
  const pool = stacks(4000);
  const begin = Date.now() - windows * 10e3 - 20e3;
  for (let p = 0; p < processes; p++) {
    const batch = [];
    for (let w = 0; w < windows && p * windows + w < profiles; w++) {
      const samples = Array.from({ length: 30 }, (_, i) => pool[(p * 37 + ((w % 17) + 1) * i) % pool.length]).filter((s) => s !== undefined);
      batch.push(encode(samples, begin + w * 10e3, 10e3));
    }
    await own.push(`service-${p}`, batch);
  }
}

/** From a cold page to the busiest service's flame graph. @param {import("playwright-core").Browser} browser @param {number} profiles */
async function journey(browser, profiles) {
  const own = await start({ data: false });
  try {
    await fillHour(own, profiles);
    /** @type {{ cpu: number[], wall: number[] }} */
    const all = { cpu: [], wall: [] };
    for (let i = 0; i < 5; i++) {
      const context = await browser.newContext({ viewport: { width: 1600, height: 900 } });
      const page = await context.newPage();
      const until = async (/** @type {string} */ condition) => {
        while (!(await page.evaluate(condition))) await new Promise((resolve) => setTimeout(resolve, 20));
      };
      const begun = performance.now();
      all.cpu.push(await cost(page, async () => {
        await page.goto(own.url);
        await until("document.querySelector('td.service a') !== null");
        const box = await page.evaluate("(({ left, top }) => ({ left, top }))(document.querySelector('td.service a').getBoundingClientRect())");
        await page.mouse.click(box.left + 5, box.top + 5);
        await until("location.pathname === '/explore' && document.querySelectorAll('[role=treeitem]').length > 1 && !document.querySelector('.stale, .busy')");
      }));
      all.wall.push(performance.now() - begun);
      await context.close();
    }
    console.log(`from a cold page to the busiest of ${Math.ceil(profiles / 350)} services, ${profiles} profiles stored, 1 click: ${median(all.cpu).toFixed(0)} ms CPU, ${median(all.wall).toFixed(0)} ms wall`);
  } finally {
    await own.close();
  }
}

const browser = await launch();
for (const nodes of sizes) {
  const dir = await mkdtemp(join(tmpdir(), "pilotlight-bench-"));
  const file = join(dir, "profile.pb.gz");
  const now = Date.now();
  const samples = stacks(nodes);
  await writeFile(file, encode(samples, now - 60e3, 10e3));
  const own = await start({ data: false });
  try {
    // The store takes 65,536 samples a profile.
    const parts = [];
    for (let i = 0; i < samples.length; i += 30000) parts.push(encode(samples.slice(i, i + 30000), now - 60e3 - i, 10e3));
    for (const part of parts) await own.push("bench", [part]);
    const range = `from=${now / 1e3 - 3600}&to=${now / 1e3}`;
    const answer = await fetch(`${own.url}/api/v1/flamegraph?${range}&max_nodes=1000000`, { headers: { Accept: "application/x-pilotlight-columns", "Accept-Encoding": "gzip" } });
    const wire = Number(answer.headers.get("content-length") ?? 0) || (await answer.arrayBuffer()).byteLength;
    /** Asks seldom: a look for the end must not be what is measured. @param {Page} page @param {string} condition */
    const until = async (page, condition) => {
      while (!(await page.evaluate(condition))) await new Promise((resolve) => setTimeout(resolve, 200));
    };
    const figures = await measure(browser, `${own.url}/explore?${range}&table=0`, (page) => until(page, "document.querySelectorAll('[role=treeitem]').length > 1 && !document.querySelector('.stale, .busy')"), async (page) => {
      const box = await page.evaluate("(({ left, top }) => ({ left, top }))(document.querySelector('.flame canvas').getBoundingClientRect())");
      await page.mouse.click(box.left + 300, box.top + 50);
      await until(page, "location.search.includes('zoom=')");
    }, (page) => page.route(/flamegraph\?/, (route) => route.continue({ url: `${route.request().url()}&max_nodes=1000000` })));
    print("pilotlight", nodes, figures);
    console.log(`${"".padEnd(23)}${(wire / 1e6).toFixed(2)} MB answer`);
    if (process.env["PPROF"] !== "0") {
      const port = 17000 + Math.floor(Math.random() * 2000);
      const child = spawn(go, ["tool", "pprof", "-http", `127.0.0.1:${port}`, "-no_browser", "-symbolize=none", file], { stdio: "ignore", detached: true });
      try {
        const url = `http://127.0.0.1:${port}/ui/flamegraph`;
        for (let i = 0; i < 600 && !(await fetch(`http://127.0.0.1:${port}/`, { method: "HEAD" }).then(() => true, () => false)); i++) await new Promise((r) => setTimeout(r, 100));
        print("pprof -http", nodes, await measure(browser, url, (page) => page.locator("#stack-chart div").nth(3).waitFor(), (page) => page.locator("#stack-chart > div").nth(2).click({ position: { x: 5, y: 5 }, force: true })));
      } finally {
        if (child.pid) process.kill(-child.pid, "SIGKILL"); // go tool is one process, and pprof another
      }
    }
    if (process.env["SPEEDSCOPE"] !== "0") {
      const { server, url } = await serve(speedscopeDir(), file);
      print("speedscope", nodes, await measure(browser, `${url}/#profileURL=${encodeURIComponent(`${url}/profile.pb.gz`)}`,
        async (page) => { await page.locator("canvas").first().waitFor(); await page.waitForTimeout(500); },
        async (page) => { await page.mouse.dblclick(400, 300); await page.waitForTimeout(300); }));
      server.close();
    }
  } finally {
    await own.close();
    await rm(dir, { recursive: true, force: true });
  }
}
if (stored > 0) await journey(browser, stored);
await browser.close();
