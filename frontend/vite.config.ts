import { defineConfig } from "vitest/config";

// The built page is committed and shipped with the Python package: names without hashes keep its history readable, and
// the server sends the assets with an ETag. One script and one style sheet, nothing inlined: the page's policy is 'self'.
export default defineConfig({
  base: "./",
  build: {
    outDir: process.env["RALLYTRACE_STATIC"] ?? "../src/rallytrace/label/static",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: false,
    target: "es2022",
    rollupOptions: {
      output: { entryFileNames: "app.js", chunkFileNames: "[name].js", assetFileNames: "[name][extname]" },
    },
  },
  server: { proxy: { "/api": "http://127.0.0.1:8421", "/frames": "http://127.0.0.1:8421" } },
  test: { include: ["tests/**/*.test.ts"], environment: "node" },
});
