// What the workbench computes, compared with `go tool pprof` on the file that the page offers, and its states.
// @ts-check

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { go, start } from "./fixture.mjs";
import { encode } from "./pprof.mjs";
import { api, complaints, expected, explore, fixture, frameAt, hour, open, origin, param, paramIs, query, tableNames, treeNames } from "./harness.mjs";

/** @typedef {import("./harness.mjs").Page} Page */

/** The profile that the page offers for download. @param {Page} page @param {string} dir */
async function download(page, dir) {
  await page.keyboard.press("e");
  const saved = page.waitForEvent("download");
  await page.getByRole("link", { name: "pprof", exact: true }).click();
  const file = join(dir, "profile.pb.gz");
  await (await saved).saveAs(file);
  await page.keyboard.press("Escape");
  return file;
}

/** @param {string[]} args */
const pprof = (...args) => execFileSync(go, ["tool", "pprof", "-symbolize=none", "-unit=ns", "-nodecount=100000", "-nodefraction=0", "-edgefraction=0", ...args], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });

/** The rows of pprof -top: function to [flat, cum], rounded as pprof prints them. @param {string} text */
function topRows(text) {
  /** @type {Map<string, string>} */
  const rows = new Map();
  for (const m of text.matchAll(/^\s*(\d+)(?:ns)?\s+\S+%\s+\S+%\s+(\d+)(?:ns)?\s+\S+%\s+(.*)$/gm)) {
    // A function that pprof inlined or that is in a file of its own is still this function.
    rows.set((m[3] ?? "").replace(/ \(inline\)$/, "").trim(), `${m[1]} ${m[2]}`);
  }
  return rows;
}

/** What the server's table of the same selection says, in the same form. @param {Page} page @param {string[]} filters */
async function ownRows(page, filters) {
  const url = await page.locator("a[download]").first().getAttribute("href");
  const top = await api(`top?${new URL(url ?? "", origin).searchParams}`);
  assert.deepEqual(new URL(url ?? "", origin).searchParams.getAll("filter"), filters);
  return { top, rows: new Map(top.rows.map((/** @type {{function: string, self: number, total: number}} */ r) => [r.function, `${r.self} ${r.total}`])) };
}

/** @type {import("./harness.mjs").Test[]} */
export const tests = [
  ["3, 7: the table equals go tool pprof -top, with each filter and without", async () => {
    const dir = await mkdtemp(join(tmpdir(), "pilotlight-pprof-"));
    try {
      const page = await open();
      for (const filters of [[], ["focus:main\\.rank"], ["ignore:^share_fifty$"], ["hide:serv"], ["show_from:^main"], ["focus:main", "ignore:fib", "hide:rank", "show_from:main"]]) {
        await explore(page, filters.map((f) => `&f=${encodeURIComponent(f)}`).join(""));
        const file = await download(page, dir);
        const { top, rows } = await ownRows(page, filters);
        assert.deepEqual(rows, new Map([...rows.keys()].map((k) => [k, topRows(pprof("-top", file)).get(k)])), filters.join(" "));
        // The page shows these rows, the largest first, and their sum is the graph's root.
        assert.equal((await tableNames(page))[0], top.rows[0].function);
        const graph = await api(`flamegraph?${new URL((await page.locator("a[download]").first().getAttribute("href")) ?? "", origin).searchParams}&max_nodes=20`);
        assert.equal(graph.total, top.total);
        const sum = (/** @type {number[]} */ column) => column.reduce((a, b) => a + b, 0);
        assert.equal(sum(graph.self) + sum(graph.pruned_value), graph.total);
      }
    } finally {
      await rm(dir, { recursive: true });
    }
  }],
  ["7: the sandwich equals go tool pprof -peek", async () => {
    const dir = await mkdtemp(join(tmpdir(), "pilotlight-pprof-"));
    try {
      const page = await open();
      await page.goto(`${origin}/explore?${query}&view=sandwich&name=main.rank`);
      await page.getByRole("region", { name: "Called by" }).waitFor();
      const file = await download(page, dir);
      const peek = pprof("-peek=^main\\.rank$", file);
      const want = [...peek.matchAll(/^\s+(\d+)(?:ns)?\s+\S+% \|\s+(\S+)$/gm)].map((m) => m[2]);
      const got = await page.locator(".call-list td.fn").allTextContents();
      assert.deepEqual([...got].sort(), want.sort());
      assert.deepEqual((await treeNames(page, "Callers")).slice(0, 2), ["main.rank", "main.(*server).search"]);
      assert.ok((await treeNames(page, "Callees")).includes("sort.Slice"));
      await page.getByRole("region", { name: "Calls" }).getByRole("button", { name: "sort.Slice" }).click();
      await paramIs(page, "name", "sort.Slice");
      await page.getByRole("heading", { name: "sort.Slice" }).waitFor();
    } finally {
      await rm(dir, { recursive: true });
    }
  }],
  ["export: each file holds the total that the page shows", async () => {
    const page = await open();
    await explore(page, "&f=focus:main%5C.rank");
    await page.keyboard.press("e");
    const url = new URL((await page.locator("a[download]").first().getAttribute("href")) ?? "", origin);
    const { total } = await api(`top?${url.searchParams}`);
    const text = async (/** @type {string} */ label) => {
      const saved = page.waitForEvent("download");
      await page.getByRole("link", { name: label, exact: true }).click();
      return readFileSync(await (await saved).path(), "utf8");
    };
    const sum = (/** @type {number[]} */ list) => list.reduce((a, b) => a + b, 0);
    assert.equal(sum((await text("Folded")).trim().split("\n").map((line) => Number(line.slice(line.lastIndexOf(" "))))), total);
    assert.equal(sum(JSON.parse(await text("speedscope")).profiles[0].weights), total);
    assert.equal(Math.round(sum(JSON.parse(await text("Firefox")).threads[0].samples.weight) * 1e6), total);
    assert.match(await text("SVG"), /<title>main\.rank, 100\.00 %<\/title>/);
    const saved = page.waitForEvent("download");
    await page.getByRole("button", { name: "PNG" }).click();
    assert.equal(readFileSync(await (await saved).path()).subarray(1, 4).toString(), "PNG");
  }],
  ["open: a local pprof or folded file is read in the page, and nothing is sent", async () => {
    const page = await open();
    await page.goto(`${origin}/open`);
    await page.getByText("Open a profile of this machine").waitFor();
    /** @type {string[]} */
    const sent = [];
    page.on("request", (r) => sent.push(r.url()));
    const testdata = fileURLToPath(new URL("../../../profilestore/flamegraph/testdata/", import.meta.url));
    await page.getByLabel("Profile").setInputFiles(join(testdata, "local.pb.gz"));
    await page.getByRole("tree", { name: "Flame graph" }).waitFor({ state: "attached" });
    const golden = JSON.parse(readFileSync(join(testdata, "local.json"), "utf8"))[1];
    assert.deepEqual((await tableNames(page)).slice(0, 5), golden.top.rows.slice(0, 5).map((/** @type {{function: string}} */ r) => r.function));
    assert.equal(await frameAt(page, 5, 1), golden.graph.names[golden.graph.name[1]]);
    await page.locator(".flame canvas").click({ position: { x: 5, y: 30 } });
    await page.waitForURL(/zoom=/);
    await page.getByLabel("Profile").setInputFiles(join(testdata, "export.folded"));
    await page.getByRole("treeitem", { name: /^main / }).waitFor({ state: "attached" });
    await page.getByLabel("Profile").setInputFiles(fileURLToPath(import.meta.url));
    await page.getByRole("alert").filter({ hasText: "neither a pprof nor a folded file" }).waitFor();
    assert.deepEqual(sent.filter((url) => !url.includes("/assets/")), []);
  }],
  ["function: trend, callers, callees and cost per label add up to the function", async () => {
    const page = await open();
    await explore(page);
    await page.locator(".flame canvas").click({ button: "right", position: { x: 5, y: 70 } });
    await page.getByRole("menuitem", { name: /^Its own page/ }).click();
    await page.waitForURL(/\/fn\?.*name=main/);
    await page.getByRole("heading", { name: "main", exact: true }).waitFor();
    await page.getByRole("region", { name: "Called by" }).getByRole("button", { name: "__libc_start_main_impl" }).waitFor();
    await page.getByRole("region", { name: "Over time" }).getByRole("listitem").nth(11).waitFor();
    await page.getByRole("region", { name: "Source" }).getByText("/src/loads/shares.c", { exact: true }).waitFor();
    const cost = page.getByRole("region", { name: "Cost per label" });
    assert.match((await cost.locator("tr").first().textContent()) ?? "", /100\s%shares$/);
    await page.getByRole("region", { name: "Calls", exact: true }).getByRole("button", { name: "share_fifty" }).click();
    await page.getByRole("heading", { name: "share_fifty", exact: true }).waitFor();
  }],
  ["function: what the values beyond those asked for cost is a row of its own", async () => {
    const page = await open();
    const day = Date.now() - 30 * 3600e3;
    for (let k = 1; k <= 10; k++) {
      await fixture?.push(`worker-${k}`, [encode([{ stack: [{ name: "shared_work", binary: "/opt/worker", file: "" }], count: 10 * k, nanoseconds: k * 1e8 }], day, 10e3)]);
    }
    await page.goto(`${origin}/fn?from=${day / 1e3 - 600}&to=${day / 1e3 + 600}&name=shared_work`);
    const rows = page.getByRole("region", { name: "Cost per label" }).locator("tr");
    await rows.nth(8).waitFor();
    // 10 to 3 are asked; 2 and 1 are the rest.
    assert.deepEqual((await rows.locator("td:last-child").allTextContents()).slice(0, 8), Array.from({ length: 8 }, (_, i) => `worker-${10 - i}`));
    assert.match((await rows.nth(8).textContent()) ?? "", /^300\sms5\.4\d\s%other values/);
    assert.equal(await rows.count(), 9);
  }],
  ["questions: from a cold page, what is hot is one click away, what changed too, who calls it and which line three", async () => {
    const page = await open();
    const { rows } = await api(`top?${hour()}&query=${encodeURIComponent('{service_name="shares"}')}`);
    const hottest = rows[0].function;
    const hot = async () => {
      await page.goto(`${origin}/`);
      await page.locator("td.service a").first().click();
      await page.locator(".top-table td.fn").first().getByText(hottest, { exact: true }).waitFor();
      assert.equal(param(page, "q"), '{service_name="shares"}');
    };
    await hot();
    await page.locator(".top-table tbody tr").first().click();
    await page.getByRole("button", { name: "Sandwich" }).click();
    await page.getByRole("region", { name: "Called by" }).getByRole("button", { name: "main", exact: true }).waitFor();
    await hot();
    await page.locator(".top-table tbody tr").first().click();
    await page.getByRole("button", { name: "Source" }).click();
    await page.getByRole("region", { name: "Lines" }).locator("tr.hot").first().waitFor();
    await page.goto(`${origin}/`);
    await page.getByRole("row", { name: "shares" }).getByRole("link", { name: "%" }).click();
    await page.waitForURL(/\/diff\?/);
    await page.locator(".top-table td.fn").first().getByText("helper_a", { exact: true }).waitFor();
  }],
  ["source: what each line used, with its text where the server has it", async () => {
    const page = await open();
    await page.goto(`${origin}/explore?${query}&view=source`);
    await page.getByText("Which function?").waitFor();
    await page.locator(".top-table").getByRole("button", { name: "main.rank", exact: true }).click();
    await paramIs(page, "name", "main.rank");
    const lines = page.getByRole("region", { name: "Lines" });
    await lines.getByText(/^\s*line \d+ of main\.go$/).first().waitFor();
    const answer = await api(`source?function=main.rank&${hour()}`);
    const top = (await api(`top?${hour()}`)).rows.find((/** @type {{function: string}} */ r) => r.function === "main.rank");
    assert.equal(answer.lines.reduce((/** @type {number} */ sum, /** @type {{self: number}} */ l) => sum + l.self, 0), top.self);
    const hot = answer.lines.filter((/** @type {{total: number}} */ l) => l.total > 0).map((/** @type {{line: number}} */ l) => String(l.line));
    assert.deepEqual(await lines.locator("tr.hot .line-number").allTextContents(), hot);
    await page.keyboard.press("Escape");
    await paramIs(page, "view", null);
    await page.goto(`${origin}/explore?${query}&view=source&name=share_fifty`);
    await page.getByText("is not below the directory of --source-root").waitFor();
    assert.match((await lines.locator("tr.hot").textContent()) ?? "", /100\s%\d+$/);
    await page.goto(`${origin}/explore?${query}&view=source&name=do_syscall_64`);
    await page.getByText("its binary has no debug information").waitFor();
  }],
  ["filters: added from the menu, edited, put in order, removed; each says what it dropped", async () => {
    const page = await open();
    await explore(page);
    assert.equal(await frameAt(page, 5, 1), "_start");
    await page.locator(".flame canvas").click({ button: "right", position: { x: 5, y: 30 } });
    await page.getByRole("menuitem", { name: "Ignore" }).click();
    await page.waitForURL((url) => url.searchParams.get("f") === "ignore:^_start$");
    const chips = page.getByRole("list", { name: "Filters" }).getByRole("listitem");
    await chips.filter({ hasText: "ignore" }).filter({ hasText: "%" }).waitFor();
    const dropped = Number(/−([\d.]+)/.exec((await chips.first().textContent()) ?? "")?.[1]);
    const top = await api(`top?from=${Date.now() / 1e3 - 3600}`);
    const start = top.rows.find((/** @type {{function: string}} */ r) => r.function === "_start");
    assert.ok(Math.abs(dropped - (100 * start.total) / top.total) < 0.5, `${dropped} % dropped`);
    await page.getByRole("button", { name: "+ Filter" }).click();
    await page.getByLabel("Kind of filter").selectOption("hide");
    await page.getByLabel("Regular expression").fill("serve");
    await page.keyboard.press("Enter");
    await page.waitForURL((url) => url.searchParams.getAll("f").join(" ") === "ignore:^_start$ hide:serve");
    await page.getByRole("button", { name: "Apply hide:serve earlier" }).click();
    await page.waitForURL((url) => url.searchParams.getAll("f").join(" ") === "hide:serve ignore:^_start$");
    await page.getByRole("button", { name: /^hide serve/ }).click();
    await page.getByLabel("Regular expression").fill("(");
    await page.keyboard.press("Enter");
    await page.getByRole("alert").filter({ hasText: "filter" }).waitFor();
    expected(400);
    await page.goBack();
    await page.getByRole("button", { name: "Remove hide:serve" }).click();
    await page.waitForURL((url) => url.searchParams.getAll("f").join(" ") === "ignore:^_start$");
    await page.getByRole("tree").waitFor({ state: "attached" });
    assert.ok(!(await treeNames(page)).includes("_start"));
  }],
  ["keys: r collapses recursion, i inverts, t hides the table, f x h filter, s opens the sandwich, d the diff", async () => {
    const page = await open();
    await explore(page, "&search=%5Efib%24");
    await page.getByTestId("share").getByText("3 frames").waitFor();
    await page.keyboard.press("r");
    await paramIs(page, "f", "collapse:.");
    await page.getByTestId("share").getByText("1 frame").waitFor();
    await page.keyboard.press("r");
    await paramIs(page, "f", null);
    await page.keyboard.press("i");
    await paramIs(page, "inv", "1");
    await page.getByRole("treeitem", { name: /^share_fifty / }).waitFor({ state: "attached" });
    assert.equal((await treeNames(page))[1], "share_fifty");
    await page.keyboard.press("i");
    await paramIs(page, "inv", null);
    await page.keyboard.press("t");
    await paramIs(page, "table", "0");
    assert.equal(await page.locator(".top-table").count(), 0);
    await page.keyboard.press("t");
    await page.locator(".top-table").waitFor();
    for (const [key, filter] of [["f", "focus:^main$"], ["x", "ignore:^main$"], ["h", "hide:^main$"]]) {
      await explore(page);
      assert.equal(await frameAt(page, 5, 3), "main");
      await page.keyboard.press(key ?? "");
      await paramIs(page, "f", filter ?? "");
    }
    await explore(page);
    assert.equal(await frameAt(page, 5, 3), "main");
    await page.keyboard.press("s");
    await page.getByRole("region", { name: "Called by" }).getByRole("button", { name: "__libc_start_main_impl" }).waitFor();
    await page.keyboard.press("s");
    await paramIs(page, "view", null);
    // Without a frame to look at, of the function that is chosen in the table.
    await explore(page);
    await page.locator(".top-table").getByRole("button", { name: "main.rank", exact: true }).click();
    await paramIs(page, "name", "main.rank");
    await page.keyboard.press("s");
    await paramIs(page, "view", "sandwich");
    await page.keyboard.press("s");
    await page.keyboard.press("d");
    await page.waitForURL(/\/diff\?/);
    assert.equal(param(page, "b.from"), "now-2h");
  }],
  ["6: each parameter survives reload, Back, and a fresh window", async () => {
    const now = Math.floor(Date.now() / 1e3);
    /** Each with something of the page that is only so if the parameter was understood. @type {[string, (page: Page) => import("playwright-core").Locator][]} */
    const cases = [
      ["q={service_name=\"api\"}", (p) => p.getByRole("button", { name: /^api 100/ })],
      ["type=process_cpu:samples:count:cpu:nanoseconds", (p) => p.getByText("per s by")],
      [`to=${now - 60}`, (p) => p.locator("select[title='The range ends at a fixed time']")],
      [`sel=${now - 1800}-${now - 900}`, (p) => p.getByRole("button", { name: /×$/ }).first()],
      ["view=table", (p) => p.getByRole("columnheader", { name: "Binary" })],
      ["zoom=_start;__libc_start_main_impl;main", (p) => p.getByRole("button", { name: "Reset zoom", disabled: false })],
      ["f=focus:main&f=hide:fib", (p) => p.getByRole("button", { name: "Apply hide:fib earlier" })],
      ["search=fib", (p) => p.getByTestId("share")],
      ["group=hostname", (p) => p.getByRole("button", { name: /^worker-7 / })],
      ["color=package", (p) => p.locator("option:checked", { hasText: "package" })],
      ["sort=function", (p) => p.locator("th[aria-sort=ascending]")],
      ["inv=1", (p) => p.getByRole("button", { name: "Inverted", pressed: true })],
      ["table=0", (p) => p.getByRole("button", { name: "Table", pressed: false }).nth(1)],
      ["theme=dark", (p) => p.locator("html[style*=dark]")],
      ["view=sandwich&name=main", (p) => p.getByRole("region", { name: "Called by" })],
      ["view=source&name=main.rank", (p) => p.getByRole("region", { name: "Lines" })],
      ["refresh=1m", (p) => p.locator("option:checked", { hasText: "1m" })],
    ];
    const diffs = ["norm=1", "b.q={service_name=\"api\"}", "b.from=now-3h", "b.from=now-2h&b.to=now-1h"];
    for (const [path, list] of /** @type {const} */ ([["/explore", cases], ["/diff", diffs.map((d) => /** @type {typeof cases[number]} */ ([d, (p) => p.getByRole("group", { name: "B" })]))]])) {
      for (const [text, shows] of list) {
        const page = await open();
        const wanted = new URLSearchParams(text);
        await page.goto(`${origin}${path}?from=now-1h&${wanted}`);
        const check = async (/** @type {Page} */ p) => {
          await shows(p).first().waitFor({ state: "attached" });
          const have = new URL(p.url()).searchParams;
          for (const name of new Set(wanted.keys())) assert.deepEqual(have.getAll(name), wanted.getAll(name), text);
          assert.equal(await p.getByText(/is not known/).count(), 0);
        };
        await check(page);
        await page.reload();
        await check(page);
        await page.getByRole("link", { name: "Targets" }).click();
        await page.waitForURL(/targets/);
        await page.goBack();
        await check(page);
        const fresh = await open();
        await fresh.goto(page.url());
        await check(fresh);
        await page.context().close();
        await fresh.context().close();
      }
    }
  }],
  ["10: loading keeps the graph, dimmed, with the time and Cancel; an error has its request ID and Retry", async () => {
    const page = await open();
    await explore(page);
    /** @type {(() => void)[]} */
    const held = [];
    await page.route(/api\/v1\/flamegraph/, async (route) => {
      await new Promise((resolve) => held.push(() => resolve(undefined)));
      await route.continue().catch(() => undefined);
    });
    await page.getByRole("button", { name: "Inverted" }).click();
    await page.getByRole("status").getByText("Loading").waitFor();
    assert.match((await page.locator(".busy .seconds").textContent()) ?? "", /^\d+\.\d s$/);
    assert.ok((await treeNames(page)).includes("_start"));
    assert.equal(await page.locator(".pane.stale").count(), 1);
    await page.getByRole("button", { name: "Cancel" }).click();
    await page.getByText("Cancelled").waitFor();
    held.forEach((go) => go());
    await page.unroute(/api\/v1\/flamegraph/);
    await page.getByRole("button", { name: "Load", exact: true }).click();
    await page.getByRole("treeitem", { name: /^share_fifty / }).waitFor({ state: "attached" });
    assert.equal((await treeNames(page))[1], "share_fifty");
    await page.route(/api\/v1\/top/, (route) => route.fulfill({ status: 503, json: { error: { code: "unavailable", message: "the store is full: make room", request_id: "r-4711" } } }));
    await page.getByRole("button", { name: "Load again" }).click();
    await page.getByRole("alert").filter({ hasText: "the store is full: make room Request r-4711" }).waitFor();
    await page.unroute(/api\/v1\/top/);
    await page.getByRole("button", { name: "Retry" }).click();
    await page.getByRole("alert").filter({ hasText: "r-4711" }).waitFor({ state: "detached" });
    expected(503);
  }],
  ["10: no function has the figures of the one before, also if loading is given up", async () => {
    const page = await open();
    const cancel = async () => {
      await page.getByRole("button", { name: "Cancel" }).click();
      await page.getByText("Cancelled").waitFor();
    };
    // Each answer is held until `load` lets it go.
    /** @type {(() => void)[]} */
    const held = [];
    const hold = (/** @type {RegExp} */ path) => page.route(path, async (route) => {
      await new Promise((resolve) => held.push(() => resolve(undefined)));
      await route.continue().catch(() => undefined);
    });
    const load = async (/** @type {RegExp} */ path) => {
      held.splice(0).forEach((go) => go());
      await page.unroute(path);
      await page.getByRole("button", { name: "Load", exact: true }).click();
    };
    const heading = (/** @type {string} */ name) => page.getByRole("heading", { name, exact: true });

    await page.goto(`${origin}/fn?${query}&name=main`);
    await page.locator(".bars td").first().waitFor();
    await hold(/api\/v1\/sandwich/);
    await page.getByRole("region", { name: "Calls", exact: true }).getByRole("button", { name: "share_fifty" }).click();
    await heading("share_fifty").waitFor();
    assert.equal(await page.locator(".facts, .trend, .bars").count(), 0);
    await cancel();
    await page.getByText("nothing was loaded").waitFor();
    await load(/api\/v1\/sandwich/);
    await page.getByRole("region", { name: "Called by" }).getByRole("button", { name: "main", exact: true }).waitFor();
    // Nor has a label the values of another.
    await page.locator(".bars").getByText("shares", { exact: true }).waitFor();
    await hold(/api\/v1\/series/);
    await page.getByRole("region", { name: "Cost per label" }).locator("select").selectOption("hostname");
    await page.getByText("Loading…").waitFor();
    assert.equal(await page.locator(".bars").count(), 0);
    held.splice(0).forEach((go) => go());
    await page.unroute(/api\/v1\/series/);
    await page.locator(".bars").getByText("worker-7", { exact: true }).waitFor();

    // The sandwich before stays in sight, under its own name.
    await page.goto(`${origin}/explore?${query}&view=sandwich&name=main.rank`);
    await page.getByRole("region", { name: "Calls", exact: true }).getByRole("button", { name: "sort.Slice" }).waitFor();
    await hold(/api\/v1\/sandwich/);
    await page.getByRole("region", { name: "Calls", exact: true }).getByRole("button", { name: "sort.Slice" }).click();
    await page.locator(".sandwich.stale").waitFor();
    await heading("main.rank").waitFor();
    await cancel();
    await heading("main.rank").waitFor();
    await page.getByText("this is still the answer before").waitFor();
    await load(/api\/v1\/sandwich/);
    await heading("sort.Slice").waitFor();

    await page.goto(`${origin}/explore?${query}&view=source&name=main.rank`);
    await page.locator(".lines td").first().waitFor();
    await hold(/api\/v1\/source/);
    await page.locator(".top-table").getByRole("button", { name: "main.(*server).search", exact: true }).click();
    await heading("main.(*server).search").waitFor();
    assert.equal(await page.locator(".lines").count(), 0);
    await cancel();
    await load(/api\/v1\/source/);
    await page.locator(".lines td").first().waitFor();
  }],
  ["10: each empty state names its mend", async () => {
    const page = await open();
    await page.goto(`${origin}/explore?${query}&f=focus:nothing_like_it`);
    await page.getByRole("button", { name: "Remove the filters" }).click();
    await page.getByRole("tree").waitFor({ state: "attached" });
    await page.goto(`${origin}/explore?${query}&q=${encodeURIComponent('{service_name="stripped"}')}`);
    await page.getByRole("button", { name: /Show the newest, from 26 h ago/ }).click();
    await page.getByText("90.0 % of the time is in code without names").waitFor();
    await page.getByText(/Install its debug symbols.*what is stored gets names too/).waitFor();
    const day = Date.now() - 31 * 3600e3;
    await fixture?.push("jvm", [encode([{ stack: [{ name: "[jit]", binary: "[jit]", file: "" }], count: 10, nanoseconds: 1e8 }], day, 10e3)]);
    await page.goto(`${origin}/explore?from=${day / 1e3 - 600}&to=${day / 1e3 + 600}&q=${encodeURIComponent('{service_name="jvm"}')}`);
    await page.getByText("for Java, start pilotlight with --jvm-names").waitFor();
    const now = Math.floor(Date.now() / 1e3);
    // The fixture's last profile is 20 s older than its server.
    await page.goto(`${origin}/explore?${query}&sel=${now - 3}-${now - 1}`);
    await page.getByRole("button", { name: "Show the whole range" }).click();
    await page.getByRole("tree").waitFor({ state: "attached" });
    const empty = await start({ data: false });
    try {
      complaints.length = 0;
      await page.goto(`${empty.url}/explore`);
      await page.getByText("No profiles yet, and no agent has reported.").waitFor();
      await page.goto(`${empty.url}/`);
      await page.getByText("sudo pilotlight run").waitFor();
      assert.ok(complaints.every((c) => c.startsWith("external request")));
      complaints.length = 0;
      await page.goto(`${origin}/`);
    } finally {
      await empty.close();
    }
  }],
  ["time series: a label of the legend is one more matcher", async () => {
    const page = await open();
    await explore(page, `&q=${encodeURIComponent('{hostname="worker-7"}')}`);
    const legend = page.locator(".legend").getByRole("button", { name: /^api / });
    await legend.click();
    await paramIs(page, "q", '{hostname="worker-7", service_name="api"}');
    await page.locator(".legend").getByRole("button", { name: /^api 100/ }).click();
    assert.equal(param(page, "q"), '{hostname="worker-7", service_name="api"}');
  }],
  ["reload: a fixed range is loaded again on demand, on each page", async () => {
    const page = await open();
    const now = Math.floor(Date.now() / 1e3);
    for (const [path, more, paths] of /** @type {const} */ ([
      ["/", "", ["series"]], ["/explore", "", ["series", "flamegraph", "top", "agents"]], ["/explore", "&view=sandwich&name=main", ["sandwich"]], ["/explore", "&view=source&name=main", ["source"]],
      ["/fn", "&name=main", ["sandwich", "flamegraph", "source"]], ["/diff", "", ["flamegraph", "top"]],
    ])) {
      await page.goto(`${origin}${path}?from=${now - 3000}&to=${now - 60}${more}`);
      await page.locator(path === "/fn" ? ".bars td" : "td").first().waitFor();
      await page.waitForFunction(() => document.querySelector(".stale, .busy") === null);
      const again = paths.map((p) => page.waitForRequest((r) => r.url().includes(`/api/v1/${p}?`) || r.url().endsWith(`/api/v1/${p}`)));
      await page.getByRole("button", { name: "Load again", exact: true }).click();
      await Promise.all(again);
    }
  }],
  ["reload: the timer waits for an answer that takes longer than its interval", async () => {
    const page = await open();
    await page.clock.install();
    await explore(page, "&refresh=10s");
    /** @type {(() => void)[]} */
    const held = [];
    await page.route(/api\/v1\/flamegraph/, async (route) => {
      await new Promise((resolve) => held.push(() => resolve(undefined)));
      await route.continue().catch(() => undefined);
    });
    await page.clock.runFor(10e3);
    await page.locator(".pane.stale").first().waitFor(); // the table is one too, until its answer is there
    for (let i = 0; i < 3; i++) await page.clock.runFor(10e3);
    await page.waitForTimeout(300);
    assert.equal(held.length, 1);
    held.forEach((go) => go());
    await page.locator(".pane.stale").first().waitFor({ state: "detached" });
    const next = page.waitForRequest(/api\/v1\/flamegraph/);
    await page.clock.runFor(10e3);
    await next;
    held.forEach((go) => go());
  }],
  ["copy: where the browser has no clipboard, the page says so and shows the text", async () => {
    const page = await open();
    // As over HTTP from another machine.
    await page.addInitScript(() => Object.defineProperty(navigator, "clipboard", { value: undefined }));
    await explore(page);
    const name = await frameAt(page, 5, 3);
    await page.keyboard.press("c");
    const note = page.locator(".note").filter({ hasText: "does not allow it" });
    await note.getByText(name, { exact: true }).waitFor();
    await note.getByRole("button", { name: "Dismiss" }).click();
    await note.waitFor({ state: "detached" });
    await page.keyboard.press("e");
    await page.getByRole("button", { name: "Copy link" }).click();
    await page.locator(".share-menu").getByText("select the text and copy it").waitFor();
  }],
  ["time range: what is typed stays while the page looks for data", async () => {
    const page = await open();
    await page.goto(`${origin}/explore?${query}&q=${encodeURIComponent('{service_name="nothing of this name"}')}`);
    await page.getByRole("button", { name: "Show all services" }).waitFor();
    await page.locator(".range summary").click();
    const from = page.getByLabel("From");
    await from.fill("2026-01-02T03:04:05");
    await page.waitForRequest(/api\/v1\/series/);
    await page.waitForResponse(/api\/v1\/series/);
    await page.waitForTimeout(200);
    assert.equal(await from.inputValue(), "2026-01-02T03:04:05");
    assert.equal(await from.evaluate((el) => el === document.activeElement), true);
    await page.locator(".range").getByRole("button", { name: "Apply" }).click();
    await paramIs(page, "from", String(await page.evaluate(() => Date.parse("2026-01-02T03:04:05") / 1e3)));
  }],
  ["2: a stack 5,000 deep renders and scrolls, and the canvas stays as large as the window", async () => {
    const page = await open();
    const day = Math.floor(Date.now() / 1e3) - 26 * 3600;
    await page.goto(`${origin}/explore?from=${day - 3600}&to=${day + 600}&q=${encodeURIComponent('{service_name="deep"}')}`);
    await page.getByRole("treeitem", { name: /^level_0 / }).waitFor({ state: "attached" });
    const canvas = page.locator(".flame canvas");
    assert.ok(((await canvas.boundingBox())?.height ?? 0) < 900);
    await page.locator(".flame").evaluate((el) => (el.scrollTop = 4000 * 20));
    await page.waitForFunction(() => (document.querySelector(".flame")?.scrollTop ?? 0) === 80000);
    assert.match(await frameAt(page, 200, 5), /^level_400\d$/);
    await page.locator(".flame").evaluate((el) => (el.scrollTop = el.scrollHeight));
    await page.waitForFunction(() => (document.querySelector(".flame")?.scrollTop ?? 0) > 90000);
    assert.match(await frameAt(page, 200, 3), /^level_49\d\d$/);
  }],
  ["search: a letter typed while the page takes up those before it stays", async () => {
    const page = await open();
    await explore(page);
    const shown = await page.getByRole("searchbox").evaluate(async (/** @type {HTMLInputElement} */ input) => {
      const type = (/** @type {string} */ text) => {
        Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value")?.set?.call(input, text);
        input.dispatchEvent(new Event("input", { bubbles: true }));
      };
      const sent = new Promise((resolve) => window.addEventListener("pilotlight:location", () => {
        type("mai");
        resolve(undefined);
      }, { once: true }));
      type("ma");
      await sent;
      // Before the page sends the letter too.
      await new Promise((resolve) => setTimeout(resolve, 120));
      return input.value;
    });
    assert.equal(shown, "mai");
    await paramIs(page, "search", "mai");
  }],
  ["table: each of 5,000 rows can be scrolled to, and a search then shows what it leaves", async () => {
    const page = await open();
    const day = Math.floor(Date.now() / 1e3) - 26 * 3600;
    await page.goto(`${origin}/explore?from=${day - 3600}&to=${day + 600}&q=${encodeURIComponent('{service_name="deep"}')}`);
    await page.locator(".top-table tbody tr").first().waitFor();
    await page.locator(".top-table").evaluate((el) => (el.scrollTop = 4000 * 24));
    await page.locator(".top-table tr[aria-rowindex='4002']").waitFor();
    const blank = page.locator(".top-table").evaluate((table) => new Promise((resolve) => {
      let frames = 0;
      const look = () => {
        const rows = table.querySelectorAll("td.fn").length;
        if (rows === 0) frames++;
        if (rows === 1) resolve(frames);
        else requestAnimationFrame(look);
      };
      look();
    }));
    await page.getByRole("searchbox").fill("^level_1234$");
    assert.equal(await blank, 0);
    await page.locator(".top-table").getByRole("button", { name: "level_1234", exact: true }).waitFor();
  }],
  ["4: zooming a pruned node fetches; its children sum to the parent", async () => {
    const page = await open();
    // As if the answer held five nodes: the rest is pruned, and has to be fetched.
    await page.route(/api\/v1\/flamegraph/, (route) => {
      const url = new URL(route.request().url());
      if (!url.searchParams.has("root")) url.searchParams.set("max_nodes", "5");
      return route.continue({ url: String(url) });
    });
    await explore(page);
    const before = await treeNames(page);
    const fetched = page.waitForRequest(/flamegraph\?.*root=_start%3B__libc_start_main_impl%3Bmain/);
    await page.goto(`${origin}/explore?${query}&zoom=${encodeURIComponent("_start;__libc_start_main_impl;main")}`);
    const request = await fetched;
    await page.getByRole("treeitem", { name: /^fib / }).waitFor({ state: "attached" });
    assert.ok(!before.includes("fib"));
    const graph = await (await fetch(request.url())).json();
    const kids = graph.depth.flatMap((/** @type {number} */ d, /** @type {number} */ i) => (d === 1 ? [i] : []));
    const total = (/** @type {number} */ i) => {
      let sum = 0;
      for (let k = i; k === i || graph.depth[k] > graph.depth[i]; k++) sum += graph.self[k] + graph.pruned_value[k];
      return sum;
    };
    assert.equal(kids.reduce((/** @type {number} */ a, /** @type {number} */ i) => a + total(i), 0) + graph.self[0] + graph.pruned_value[0], graph.total);
    assert.equal(await frameAt(page, 5, 3), "main");
  }],
];
