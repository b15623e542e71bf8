import { defineConfig } from "vitest/config";

// The bundle is committed and CI diffs it against a fresh build, so nothing here may depend on the
// machine, the time or the git state.
export default defineConfig({
  base: "/",
  build: {
    outDir: "dist",
    assetsDir: "assets",
    target: "es2022",
    // The first that know light-dark() and oklch(): lowered, the page could not switch its theme by color-scheme.
    cssTarget: ["chrome123", "firefox120", "safari17.5"],
    // The Content-Security-Policy allows neither inline scripts nor data: fonts.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  worker: { format: "es" },
  server: {
    // `npx vite` against a running server.
    proxy: { "/api": process.env["PILOTLIGHT_URL"] ?? "http://127.0.0.1:7100" },
  },
  test: { include: ["test/unit/**/*.test.ts"] },
});
