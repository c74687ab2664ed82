// One run of checks in a browser, from its start to its exit status.

import { constants } from "node:fs";
import { launch } from "./browser.mjs";
import { present } from "./common.mjs";
import { close, fail } from "./report.mjs";
import { killAll } from "./server.mjs";

/** The demo's program, which the command line of `script` names. */
export function namedDemo(script) {
  const program = process.argv[2];
  if (!program) throw new Error(`name the demo: node ${script} ../../target/debug/examples/scheduler`);
  present(program, constants.X_OK, "build it with: cargo build --examples");
  return program;
}

/** Runs `job` with a browser and what `find` finds, for `longest` ms at most; what it returns is the exit status. */
export async function run(find, job, longest) {
  process.on("exit", killAll);
  let found, browser;
  try {
    found = find();
    browser = await launch();
  } catch (error) {
    fail("the check could start", error.message);
    close();
    return 2;
  }
  const guard = setTimeout(() => {
    fail("the run came to its end", `not within ${longest / 1000} s`);
    killAll();
    process.exit(close());
  }, longest);
  try {
    await job(browser, found);
  } finally {
    clearTimeout(guard);
    await browser.close();
    killAll();
  }
  console.log();
  return close();
}
