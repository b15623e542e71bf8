// For those who use no mouse or no eyes: the keyboard alone, what a screen reader is told, and axe in both themes.
// @ts-check

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { explore, live, open, origin, param, paramIs, query } from "./harness.mjs";

const axe = readFileSync(fileURLToPath(import.meta.resolve("axe-core/axe.min.js")), "utf8");

/** What axe has against the page as it is. @param {import("./harness.mjs").Page} page @returns {Promise<string[]>} */
async function violations(page) {
  return page.evaluate(async () => {
    // @ts-expect-error: axe is a global of the script that was evaluated before.
    const { violations } = await window.axe.run(document, { resultTypes: ["violations"] });
    return violations.map((/** @type {{id: string, nodes: {html: string, failureSummary: string}[]}} */ v) => `${v.id}: ${v.nodes.map((n) => `${n.html.slice(0, 160)} ${n.failureSummary}`).join(" | ")}`);
  });
}

const name = live ? "." : "fib";

/** @type {import("./harness.mjs").Test[]} */
export const tests = [
  ["9: by keyboard alone: search, zoom, sandwich, export, and what is said on the way", async () => {
    const page = await open();
    await explore(page);
    await page.keyboard.press("/");
    await page.keyboard.type(name);
    await page.keyboard.press("Enter");
    await page.getByTestId("share").waitFor();
    await page.keyboard.press("n");
    const said = page.locator("p[aria-live=polite]");
    await said.getByText(/, \S+\s% of all, self /).waitFor({ state: "attached" });
    const found = ((await said.textContent()) ?? "").split(",")[0];
    if (!live) assert.equal(found, "fib");
    const tree = page.getByRole("tree", { name: "Flame graph" });
    const active = page.locator(`#${await tree.getAttribute("aria-activedescendant")}`);
    assert.match((await active.textContent()) ?? "", /\d\s?%$/);
    assert.equal(await active.getAttribute("aria-selected"), "true");
    await tree.focus();
    await page.keyboard.press("Enter");
    await page.waitForURL(/zoom=/);
    await page.keyboard.press("s");
    await paramIs(page, "view", "sandwich");
    assert.equal(param(page, "name"), found);
    await page.getByRole("heading", { name: found ?? "", exact: true }).waitFor();
    await page.keyboard.press("e");
    await page.waitForFunction(() => document.activeElement?.closest(".share-menu") !== null);
    const saved = page.waitForEvent("download");
    for (let i = 0; i < 12 && (await page.evaluate(() => document.activeElement?.textContent)) !== "pprof"; i++) await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    assert.match((await saved).suggestedFilename(), /\.pb\.gz$/);
    await page.keyboard.press("Escape");
    await page.keyboard.press("Escape");
    await paramIs(page, "view", null);
    await page.getByRole("tree", { name: "Flame graph" }).focus();
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("Shift+F10");
    await page.getByRole("menuitem").first().waitFor();
    await page.keyboard.press("ArrowDown");
    assert.match((await page.evaluate(() => document.activeElement?.textContent)) ?? "", /^Sandwich/);
    await page.keyboard.press("Escape");
    assert.equal(await page.getByRole("menu").count(), 0);
    assert.equal(await page.evaluate(() => document.activeElement?.getAttribute("role")), "tree");
  }],
  ...["light", "dark"].map((theme) => /** @type {import("./harness.mjs").Test} */ ([`9: axe finds nothing, ${theme}`, async () => {
    /** @type {string[]} */
    const all = [];
    for (const [path, ready] of [
      ["/", "td"], ["/explore?x", ".top-table td"], ["/explore?view=table", ".top-table td"], ["/explore?view=sandwich&name=main", live ? ".pane" : ".call-list td"],
      ["/explore?view=source&name=main", ".lines td"], ["/explore?f=focus:main&search=main", "[data-testid=share]"], ["/diff?x", ".top-table td"], ["/targets?x", "td"], ["/open?x", ".empty"], ...(live ? [] : [["/fn?name=main", ".bars td"]]), ["/explore?q=%7Ba%3D%22nothing%22%7D", ".empty button"],
    ]) {
      const page = await open();
      await page.goto(`${origin}${path?.replace("?x", "")}${path?.includes("?") && !path.endsWith("?x") ? "&" : "?"}${query}&theme=${theme}`);
      await page.locator(ready ?? "").first().waitFor();
      await page.waitForFunction(() => document.querySelector(".stale, .busy") === null);
      await page.evaluate(axe);
      all.push(...(await violations(page)).map((v) => `${path}: ${v}`));
      if (path === "/explore?x") {
        await page.keyboard.press("e");
        await page.getByRole("button", { name: "+ Filter" }).click();
        await page.getByRole("tree").focus();
        await page.keyboard.press("Shift+F10");
        await page.getByRole("menu").waitFor();
        all.push(...(await violations(page)).map((v) => `menu: ${v}`));
      }
      await page.context().close();
    }
    assert.deepEqual(all, []);
  }])),
];
