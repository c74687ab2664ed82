// The browser that the checks use.

import { accessSync, constants } from "node:fs";
import { chromium } from "playwright-core";

/** With `keepPages` it keeps pages that are left, as people's browsers do, and shows them again as they were. */
export async function launch({ keepPages = false } = {}) {
  const executablePath = process.env.CHROMIUM || "/usr/bin/chromium";
  try {
    accessSync(executablePath, constants.X_OK);
  } catch {
    throw new Error(`there is no browser at ${executablePath}; install one with: apt-get install chromium, `
      + "or name one in CHROMIUM");
  }
  return chromium.launch({
    executablePath,
    ignoreDefaultArgs: keepPages ? ["--disable-back-forward-cache"] : [],
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync"],
  });
}
