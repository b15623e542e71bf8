// The diff page on the fixture's two hours: in the last one helper_a grew, fast_parse came and legacy_parse went.
// @ts-check

import assert from "node:assert/strict";
import { api, frameAt, open, origin, param, paramIs, treeNames } from "./harness.mjs";

/** @typedef {import("./harness.mjs").Page} Page */

const now = Math.floor(Date.now() / 1e3);
const last = { from: String(now - 3500), to: String(now - 100) };
const before = { "b.from": String(now - 7100), "b.to": String(now - 3700) };

/** @param {Page} page @param {Record<string, string>} more */
async function diff(page, more) {
  await page.goto(`${origin}/diff?${new URLSearchParams({ ...last, ...more })}`);
  await page.getByRole("tree", { name: "Flame graph" }).waitFor({ state: "attached" });
  await page.locator(".top-table tbody tr").first().waitFor();
}

/** The change of each function as the table shows it. @param {Page} page */
async function changes(page) {
  const cells = await page.locator(".top-table tbody tr:not(.pad)").evaluateAll((rows) => rows.map((r) => [r.querySelector(".fn")?.textContent ?? "", r.querySelector("td:nth-child(2)")?.textContent ?? ""]));
  return new Map(cells.map(([name, change]) => [name, change]));
}

/** @type {import("./harness.mjs").Test[]} */
export const tests = [
  ["diff: without a B, a range of any form is compared with the period before it, and asked for once", async () => {
    const page = await open();
    for (const range of ["from=now-1h", "from=now-1h&to=now-20m", `from=${now - 1800}`, `from=now-1h&to=${now - 600}`]) {
      /** @type {string[]} */
      const asked = [];
      const note = (/** @type {import("playwright-core").Request} */ r) => void (r.url().includes("/flamegraph?") && asked.push(r.url()));
      page.on("request", note);
      await page.goto(`${origin}/diff?${range}`);
      await page.getByRole("tree", { name: "Flame graph" }).waitFor({ state: "attached" });
      await page.waitForTimeout(500);
      page.off("request", note);
      assert.equal(asked.length, 1, range);
      const side = (/** @type {string} */ name) => Number(new URL(asked[0] ?? "").searchParams.get(name));
      assert.ok(Math.abs(side("b.to") - side("from")) < 1 && Math.abs(side("from") - side("b.from") - (side("to") - side("from"))) < 1, range);
    }
  }],
  ["8: A against A is zero everywhere", async () => {
    const page = await open();
    await diff(page, { "b.from": last.from, "b.to": last.to });
    const all = await changes(page);
    assert.ok(all.size > 20);
    assert.deepEqual([...new Set(all.values())], ["±0"]);
    await page.getByRole("button", { name: "changed 0" }).waitFor();
    await page.getByRole("button", { name: "new 0" }).waitFor();
    await page.getByRole("button", { name: "removed 0" }).waitFor();
    await frameAt(page, 5, 0);
    assert.match((await page.getByTestId("details").textContent()) ?? "", /change ±0/);
  }],
  ["8: exchanging the sides turns every sign", async () => {
    const page = await open();
    await diff(page, before);
    const one = await changes(page);
    await page.getByRole("button", { name: "Swap" }).click();
    await paramIs(page, "b.from", last.from);
    await page.waitForFunction((was) => [...document.querySelectorAll(".top-table tbody tr:not(.pad)")].some((r) => r.querySelector(".fn")?.textContent === "helper_a" && r.querySelector("td:nth-child(2)")?.textContent !== was), one.get("helper_a"));
    const other = await changes(page);
    assert.ok(one.get("helper_a")?.startsWith("+") && other.get("helper_a")?.startsWith("−"));
    const turned = new Map([...one].map(([k, v]) => [k, v.replace(/[+−]/, (sign) => (sign === "+" ? "−" : "+"))]));
    assert.deepEqual(new Map([...other].sort()), new Map([...turned].sort()));
  }],
  ["8: what is new and what is gone is there, in the table and in the graph", async () => {
    const page = await open();
    await diff(page, before);
    const top = await api(`top?${new URLSearchParams({ ...last, ...before })}`);
    const row = (/** @type {string} */ name) => top.rows.find((/** @type {{function: string}} */ r) => r.function === name);
    assert.equal(row("legacy_parse").total, 0);
    assert.equal(row("fast_parse").total_b, 0);
    await page.getByRole("button", { name: /^new / }).click();
    assert.deepEqual([...(await changes(page)).keys()], ["fast_parse"]);
    await page.getByRole("button", { name: /^removed / }).click();
    assert.deepEqual([...(await changes(page)).keys()], ["legacy_parse"]);
    await page.getByRole("button", { name: /^removed / }).click();
    await page.getByRole("button", { name: "legacy_parse" }).click();
    await page.goto(`${page.url()}&zoom=${encodeURIComponent("_start;__libc_start_main_impl;main;share_twenty")}`);
    await page.getByRole("treeitem", { name: /^legacy_parse / }).waitFor({ state: "attached" });
    assert.ok((await treeNames(page)).includes("fast_parse"));
  }],
  ["diff: normalised compares shares; the previous period is one click", async () => {
    const page = await open();
    await diff(page, { ...before, from: String(now - 1800) });
    const absolute = await changes(page);
    assert.match(absolute.get("main") ?? "", /^−/);
    await page.getByLabel("Compare").selectOption("1");
    await paramIs(page, "norm", "1");
    await page.waitForFunction(() => [...document.querySelectorAll(".top-table tbody tr:not(.pad)")].some((r) => r.querySelector(".fn")?.textContent === "helper_a" && r.querySelector("td:nth-child(2)")?.textContent?.startsWith("+")));
    await page.getByRole("button", { name: "Previous period" }).click();
    await paramIs(page, "b.to", String(now - 1800));
    assert.equal(Number(param(page, "b.from")), 2 * (now - 1800) - Number(last.to));
  }],
];
