// What the page of a live server shows of a service: node live.mjs URL SERVICE FUNCTION... prints, as JSON, the
// percent that the flame graph and the table give each function. TestBrowserFlameGraph compares them.
// @ts-check

import assert from "node:assert/strict";
import { launch, watch } from "./browser.mjs";

const [origin = "", service = "", ...functions] = process.argv.slice(2);
const browser = await launch();
const page = await browser.newPage({ viewport: { width: 1600, height: 900 } });
/** @type {string[]} */
const complaints = [];
watch(page, origin, (complaint) => complaints.push(complaint));

// As a user comes: from the list of services.
await page.goto(`${origin}/?from=now-10m`);
await page.getByRole("link", { name: service, exact: true }).click();
await page.getByRole("tree", { name: "Flame graph" }).waitFor({ state: "attached" });
await page.locator(".top-table tbody tr").first().waitFor();

/** @type {Record<string, { graph: number, table: number }>} */
const shown = {};
for (const name of functions) {
  await page.getByRole("searchbox").fill(`^${name.replaceAll(".", "\\.")}$`);
  await page.getByTestId("share").waitFor();
  const share = await page.getByTestId("share").textContent();
  const row = page.locator(".top-table tbody tr").filter({ has: page.getByText(name, { exact: true }) });
  const cells = await row.locator("td").allTextContents();
  shown[name] = { graph: percent(share), table: Math.max(...cells.filter((c) => c.endsWith("%")).map(percent)) };
  await page.getByRole("searchbox").press("Escape");
  await page.getByTestId("share").waitFor({ state: "detached" });
}
assert.deepEqual(complaints, []);
console.log(JSON.stringify(shown));
await browser.close();

/** @param {string | null} text */
function percent(text) {
  const found = /([\d.]+)\s%/.exec(text ?? "");
  assert.ok(found, `no percent in ${text}`);
  return Number(found[1]);
}
