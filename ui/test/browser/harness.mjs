// What the browser tests share: the server, the browser, and words for what a user does and sees.
// @ts-check

import assert from "node:assert/strict";
import { launch, watch } from "./browser.mjs";
import { start } from "./fixture.mjs";

/** The URL of a live server that has profiles of the last hour, if the tests are to look at that. */
export const live = process.env["PILOTLIGHT_URL"]?.replace(/\/+$/, "");
export const fixture = live ? null : await start();
export const origin = live ?? fixture?.url ?? "";
export const query = "from=now-1h";
export const browser = await launch();

/** What no page may do and one did, see watch. @type {string[]} */
export const complaints = [];

/** @typedef {import("playwright-core").Page} Page */
/** @typedef {[name: string, run: () => Promise<void>]} Test */

/** @param {import("playwright-core").BrowserContextOptions} [options] */
export async function open(options) {
  const context = await browser.newContext({ viewport: { width: 1600, height: 900 }, ...options });
  context.setDefaultTimeout(10e3);
  const page = await context.newPage();
  watch(page, origin, (complaint) => complaints.push(complaint));
  return page;
}

/** The browser itself logs each answer that is an error: one that was asked for is no complaint. @param {number} status */
export function expected(status) {
  const rest = complaints.filter((c) => !c.includes(`status of ${status}`));
  complaints.splice(0, complaints.length, ...rest);
}

/** @param {Page} page @param {string} [more] */
export async function explore(page, more = "") {
  await page.goto(`${origin}/explore?${query}${more}`);
  await page.getByRole("tree", { name: "Flame graph" }).waitFor({ state: "attached" });
  await page.locator(".top-table tbody tr").first().waitFor();
}

/** The names in the accessible tree, root first. @param {Page} page @param {string} [tree] */
export const treeNames = async (page, tree = "Flame graph") =>
  (await page.getByRole("tree", { name: tree }).getByRole("treeitem").allTextContents()).map((t) => t.replace(/\s\S+\s%$/, ""));

/** @param {Page} page @param {string} name */
export const param = (page, name) => new URL(page.url()).searchParams.get(name);

/** Waits until a parameter of the URL has a value; null: until it is gone. @param {Page} page @param {string} name @param {string | null} value */
export const paramIs = (page, name, value) => page.waitForURL((url) => url.searchParams.get(name) === value);

/** What the details bar says of the frame under a point of the canvas. @param {Page} page @param {number} x @param {number} row */
export async function frameAt(page, x, row) {
  await page.locator(".flame canvas").hover({ position: { x, y: row * 20 + 10 } });
  return (await page.getByTestId("details").locator(".name").textContent()) ?? "";
}

/** How many colours the canvas shows: a blank one shows one. @param {Page} page */
export const colorsOnCanvas = (page) => page.locator(".flame canvas").first().evaluate((/** @type {HTMLCanvasElement} */ c) => {
  const pixels = c.getContext("2d")?.getImageData(0, 0, c.width, c.height).data ?? [];
  const seen = new Set();
  for (let i = 0; i < pixels.length; i += 4) seen.add((pixels[i] ?? 0) * 65536 + (pixels[i + 1] ?? 0) * 256 + (pixels[i + 2] ?? 0));
  return seen.size;
});

/** @param {string} path */
export async function api(path) {
  const response = await fetch(`${origin}/api/v1/${path}`);
  assert.equal(response.status, 200, path);
  return response.json();
}

/** The last hour as parameters. */
export function hour() {
  const now = Date.now() / 1e3;
  return `from=${now - 3600}&to=${now}`;
}

/** The functions of the table, as far as they are drawn. @param {Page} page */
export const tableNames = (page) => page.locator(".top-table td.fn").allTextContents();
