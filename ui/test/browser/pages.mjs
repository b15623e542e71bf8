// The pages and how one moves on them.
// @ts-check

import assert from "node:assert/strict";
import { api, colorsOnCanvas, expected, explore, frameAt, hour, live, open, origin, param, query, treeNames } from "./harness.mjs";

/** @typedef {import("./harness.mjs").Page} Page */

/** @type {import("./harness.mjs").Test[]} */
export const tests = [
  ["services: lists them by CPU and leads to explore", async () => {
    const page = await open();
    await page.goto(`${origin}/?${query}`);
    const link = page.locator("td.service a").first();
    await link.waitFor();
    const name = await link.textContent();
    await link.click();
    await page.getByRole("tree").waitFor({ state: "attached" });
    assert.equal(new URL(page.url()).pathname, "/explore");
    assert.equal(new URL(page.url()).searchParams.get("q"), `{service_name="${name}"}`);
    await page.goBack();
    await page.locator("td.service a").first().waitFor();
  }],
  ["explore: shows the functions that the server names", async () => {
    const page = await open();
    await explore(page);
    const graph = await api(`flamegraph?${hour()}`);
    const names = await treeNames(page);
    const children = graph.depth.flatMap((/** @type {number} */ d, /** @type {number} */ i) => (d === 1 ? [graph.names[graph.name[i]]] : [])).slice(0, 3);
    assert.ok(children.length > 0);
    for (const name of children) assert.ok(names.includes(name), `${name} is not among ${names.join(", ")}`);
    assert.ok((await colorsOnCanvas(page)) > 20);
    assert.equal(await frameAt(page, 5, 0), graph.names[0]);
    assert.equal(await frameAt(page, 5, 1), children[0]);
  }],
  ["explore: a click zooms, the URL says so, reload keeps it, Back undoes it", async () => {
    const page = await open();
    await explore(page);
    const name = await frameAt(page, 5, 2);
    await page.locator(".flame canvas").click({ position: { x: 5, y: 50 } });
    await page.waitForURL(/zoom=/);
    const zoom = param(page, "zoom");
    assert.ok(zoom?.endsWith(name.replace(/[\\;]/g, "\\$&")), `zoom=${zoom} for ${name}`);
    const width = (await page.locator(".flame canvas").boundingBox())?.width ?? 0;
    assert.equal(await frameAt(page, width - 5, 2), name);
    await page.reload();
    await page.locator(".top-table tbody tr").first().waitFor();
    assert.equal(param(page, "zoom"), zoom);
    assert.equal(await frameAt(page, width - 5, 2), name);
    await page.goBack();
    await page.waitForURL((url) => !url.searchParams.has("zoom"));
    assert.equal(await frameAt(page, 5, 2), name);
  }],
  ["explore: keys walk the tree, zoom and come back", async () => {
    const page = await open();
    await explore(page);
    const tree = page.getByRole("tree");
    await tree.focus();
    const active = async () => page.locator(`#${await tree.getAttribute("aria-activedescendant")}`).getAttribute("aria-level");
    assert.equal(await active(), "1");
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("ArrowDown");
    assert.equal(await active(), "3");
    await page.keyboard.press("ArrowUp");
    assert.equal(await active(), "2");
    await page.keyboard.press("Enter");
    await page.waitForURL(/zoom=/);
    await page.keyboard.press("Escape");
    await page.waitForURL((url) => !url.searchParams.has("zoom"));
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("Enter");
    await page.waitForURL(/zoom=/);
    await page.keyboard.press("0");
    await page.waitForURL((url) => !url.searchParams.has("zoom"));
    await page.keyboard.press("?");
    await page.getByRole("dialog").waitFor();
    await page.keyboard.press("Escape");
    await page.getByRole("dialog").waitFor({ state: "hidden" });
  }],
  ["explore: search gives the share of all matches, and says what is wrong with a pattern", async () => {
    const page = await open();
    await explore(page);
    await page.keyboard.press("/");
    await page.keyboard.type(".");
    // Everything matches, nested: counted once it is the whole.
    await page.getByTestId("share").getByText("100").waitFor();
    await page.getByRole("searchbox").fill("no such function");
    await page.getByText("no match", { exact: true }).waitFor();
    await page.getByRole("searchbox").fill("(");
    await page.locator("#search-error").getByText(/Unterminated group/).waitFor();
    assert.equal(await page.getByRole("searchbox").getAttribute("aria-invalid"), "true");
    await page.getByRole("searchbox").press("Escape");
    await page.waitForURL((url) => !url.searchParams.has("search"));
  }],
  ["explore: the table shows the server's totals, sorts, and selects in the graph", async () => {
    const page = await open();
    await explore(page);
    const top = await api(`top?${hour()}`);
    const first = page.locator(".top-table tbody tr:not(.pad)").first();
    assert.equal(await first.locator("td.fn").textContent(), top.rows[0].function);
    await page.getByRole("columnheader", { name: "Function" }).getByRole("button").click();
    await page.waitForURL(/sort=function/);
    const names = await page.locator(".top-table td.fn").allTextContents();
    assert.deepEqual(names, [...names].sort());
    await first.click();
    await page.waitForURL(/name=/);
    assert.equal(await first.getAttribute("aria-selected"), "true");
  }],
  ["explore: dragging over the time series selects a range, which drives the graph", async () => {
    const page = await open();
    await explore(page);
    const box = await page.locator(".u-over").boundingBox();
    assert.ok(box);
    const before = await page.locator(".tools .total").textContent();
    await page.mouse.move(box.x + box.width * 0.8, box.y + 40);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width, box.y + 50, { steps: 4 });
    await page.mouse.up();
    await page.waitForURL(/sel=\d+-\d+/);
    if (!live) await page.waitForFunction((text) => document.querySelector(".tools .total")?.textContent !== text, before);
    await page.reload();
    await page.locator(".chip").click();
    await page.waitForURL((url) => !url.searchParams.has("sel"));
  }],
  ["explore: losses are in sight, and pprof has its line", async () => {
    const page = await open();
    await explore(page);
    assert.match((await page.getByTestId("losses").textContent()) ?? "", /missed.*truncated/);
    await page.keyboard.press("e");
    const line = await page.getByLabel("Open in pprof").inputValue();
    assert.match(line, /^go tool pprof 'http:\/\/.+\/api\/v1\/pprof\?.*from=\d+.*'$/);
    const link = new URL(await page.getByLabel("Link to this view").inputValue());
    assert.match(link.searchParams.get("from") ?? "", /^\d+(\.\d+)?$/);
  }],
  ["explore: the selector completes labels and values", async () => {
    const page = await open();
    await explore(page);
    const input = page.getByRole("combobox", { name: "Label selector" });
    await input.click();
    await input.fill("{service_n");
    await page.getByRole("listbox", { name: "Labels" }).getByRole("option", { name: "service_name", exact: true }).waitFor();
    await page.keyboard.press("Tab");
    const value = page.getByRole("listbox", { name: "Values of service_name" }).getByRole("option").first();
    await value.waitFor();
    const chosen = await value.textContent();
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("Enter");
    await page.waitForURL((url) => url.searchParams.get("q") === `{service_name="${chosen}"}`);
  }],
  ["states: unknown values are told, nothing found says what to do", async () => {
    const page = await open();
    await explore(page, "&color=heat&bogus=1");
    await page.getByText("color=heat is not known").waitFor();
    await page.getByText("The parameter bogus is not known").waitFor();
    await page.goto(`${origin}/explore?${query}&q=${encodeURIComponent('{service_name="nothing of this name"}')}`);
    await page.getByRole("button", { name: "Show all services" }).click();
    await page.getByRole("tree").waitFor({ state: "attached" });
  }],
  ["states: an error shows the message, the request ID and Retry", async () => {
    const page = await open();
    await page.goto(`${origin}/explore?${query}&q=${encodeURIComponent('{service_name="bad')}`);
    const note = page.getByRole("alert").filter({ hasText: "Not loaded" });
    await note.waitFor();
    assert.match((await note.textContent()) ?? "", /query .*Request \S+/);
    await note.getByRole("button", { name: "Retry" }).click();
    await note.waitFor();
    expected(400);
  }],
  ["targets: shows each agent's health", async () => {
    const page = await open();
    await page.goto(`${origin}/targets`);
    const { agents } = await api("agents");
    if (agents.length === 0) await page.getByText("No agent has reported.").waitFor();
    else await page.getByRole("cell", { name: agents[0].hostname, exact: true }).first().waitFor();
    if (live) return;
    // The fixture's agent has a clock a minute and a half ahead, a spool, and too much to do.
    await page.locator("td.bad", { hasText: "9 Hzsheds work at level 4: whole stacks of new code, short-lived processes, frequency" }).waitFor();
    await page.locator("td.bad", { hasText: /^9\d\.\d\u202fs$/ }).waitFor();
    await page.getByRole("cell", { name: "3.00\u202fMiB", exact: true }).waitFor();
  }],
  ["themes: the system's choice and the page's own", async () => {
    const ground = (/** @type {Page} */ page) => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
    const dark = await open({ colorScheme: "dark" });
    await explore(dark);
    const darkGround = await ground(dark);
    const page = await open({ colorScheme: "light" });
    await explore(page);
    const lightGround = await ground(page);
    assert.notEqual(lightGround, darkGround);
    await page.getByLabel("Theme").selectOption("dark");
    await page.waitForURL(/theme=dark/);
    assert.equal(await ground(page), darkGround);
    await page.reload();
    assert.equal(await ground(page), darkGround);
  }],
  ["390 px: nothing is wider than the screen", async () => {
    const page = await open({ viewport: { width: 390, height: 844 } });
    for (const path of ["/", "/explore", "/explore?view=sandwich&name=main", "/explore?view=table", "/explore?view=source&name=main.rank", "/diff", "/targets", "/open", "/fn?name=main"]) {
      await page.goto(`${origin}${path}${path.includes("?") ? "&" : "?"}${query}`);
      await page.locator("td:visible, .empty:visible").first().waitFor();
      const { scroll, client } = await page.evaluate(() => ({ scroll: document.documentElement.scrollWidth, client: document.documentElement.clientWidth }));
      assert.ok(scroll <= client, `${path} is ${scroll} px wide`);
    }
  }],
];

if (!live) {
  tests.push(["explore: zooming a pruned node fetches it, and its functions add up", async () => {
    const page = await open();
    await explore(page);
    await page.goto(`${origin}/explore?${query}&zoom=${encodeURIComponent("_start;__libc_start_main_impl;main;share_fifty")}`);
    await page.getByRole("treeitem", { name: /^small_0 / }).waitFor({ state: "attached" });
    const names = await treeNames(page);
    assert.equal(names.filter((n) => n.startsWith("small_")).length, 12);
    assert.equal(await frameAt(page, 5, 3), "main");
    await page.locator(".flame canvas").click({ position: { x: 5, y: 70 } });
    await page.waitForURL((url) => url.searchParams.get("zoom")?.endsWith(";main") ?? false);
    await page.goto(`${origin}/explore?${query}&zoom=_start%3Bno_such_frame`);
    await page.getByText("is not in this data").waitFor();
  }]);
}
