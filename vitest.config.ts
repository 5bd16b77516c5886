import { defineConfig } from "vitest/config"

export default defineConfig({
  test: {
    include: ["{services,mesh,cli,test,scripts,bench}/**/*.test.ts"],
    globalSetup: ["mesh/test-setup.ts"],
    // Each file has a database and sockets of its own, so files may run side by side.
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 20_000,
    hookTimeout: 30_000,
    teardownTimeout: 10_000,
    // Whole meshes on two cores that other work shares: what fails in CI is tried once more, and
    // .ci/run names it. At a desk nothing is.
    retry: process.env.CI === undefined ? 0 : 1,
  },
})
