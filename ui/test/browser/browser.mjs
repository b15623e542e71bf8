// The browser of the tests: Debian's Chromium, or the one that CHROMIUM names.
// @ts-check

import { chromium } from "playwright-core";

export const launch = () => chromium.launch({
  executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

/**
 * Tells of what no page may do: log errors, throw, ask other servers.
 * @param {import("playwright-core").Page} page @param {string} origin @param {(complaint: string) => void} complain
 */
export function watch(page, origin, complain) {
  page.on("console", (m) => ["error", "warning"].includes(m.type()) && complain(`console ${m.type()}: ${m.text()}`));
  page.on("pageerror", (e) => complain(`uncaught: ${e.message}`));
  page.on("request", (r) => {
    if (!/^(data|blob):/.test(r.url()) && new URL(r.url()).origin !== origin) complain(`external request: ${r.url()}`);
  });
}
