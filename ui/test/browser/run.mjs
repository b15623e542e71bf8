// The page in a real browser. Against PILOTLIGHT_URL, a live server that has profiles of the last hour, or else
// against a server with profiles of fixture.mjs. PILOTLIGHT_SHOTS names a folder for screenshots; an argument is a
// part of the names of the tests to run.
// @ts-check

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { browser, complaints, fixture, live, open, origin, query } from "./harness.mjs";
import { tests as access } from "./access.mjs";
import { tests as diff } from "./diff.mjs";
import { tests as pages } from "./pages.mjs";
import { tests as workbench } from "./workbench.mjs";

const shots = process.env["PILOTLIGHT_SHOTS"];
const tests = [...pages, ...access, ...(live ? [] : [...workbench, ...diff])].filter(([name]) => name.includes(process.argv[2] ?? ""));

let failed = 0;
for (const [name, run] of tests) {
  complaints.length = 0;
  await fixture?.catchUp(); // however long the tests have taken, its last hour is the last
  try {
    await run();
    assert.deepEqual(complaints, []);
    console.log(`ok    ${name}`);
  } catch (err) {
    failed++;
    console.log(`FAIL  ${name}\n      ${(err instanceof Error ? err.message : String(err)).replaceAll("\n", "\n      ")}`);
  }
  for (const context of browser.contexts()) await context.close();
}

if (shots) {
  await mkdir(shots, { recursive: true });
  for (const theme of ["light", "dark"]) {
    for (const [width, height] of [[1600, 900], [390, 844]]) {
      for (const [name, path] of [["services", "/"], ["explore", "/explore"], ["table", "/explore?view=table"], ["inverted", "/explore?inv=1"], ["sandwich", "/explore?view=sandwich&name=main"], ["source", "/explore?view=source&name=main.rank"], ["diff", "/diff"], ["fn", "/fn?name=main"], ["open", "/open"], ["targets", "/targets"]]) {
        const page = await open({ viewport: { width: width ?? 0, height: height ?? 0 } });
        await page.goto(`${origin}${path}${path?.includes("?") ? "&" : "?"}${query}&theme=${theme}`);
        await page.locator("td:visible, .empty:visible").first().waitFor();
        await page.waitForTimeout(600);
        await page.screenshot({ path: join(shots, `${name}-${width}-${theme}.png`), fullPage: width === 390 });
        await page.context().close();
      }
    }
  }
}
await browser.close();
await fixture?.close();
console.log(`${tests.length - failed} passed, ${failed} failed`);
process.exitCode = failed > 0 ? 1 : 0;
