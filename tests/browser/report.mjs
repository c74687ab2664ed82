// What was checked and how it went, one line per check.

/**
 * How long a check waits for what should come at once, on a machine that is busy with other work too. It is shorter
 * than the 30 seconds after which a deletion is broadcast again: that must not stand in for the broadcast itself.
 */
export const PATIENCE = 25_000;

const counts = { passed: 0, failed: 0 };

export function ok(name) {
  counts.passed += 1;
  console.log(`ok   ${name}`);
}

export function fail(name, why) {
  counts.failed += 1;
  console.log(`FAIL ${name}: ${why}`);
}

/** Prints the closing line; what it returns is the exit status. */
export function close() {
  console.log(`${counts.passed} passed, ${counts.failed} failed`);
  return counts.failed ? 1 : 0;
}

/** Runs `job`; the check has failed when that throws. */
export async function check(name, job) {
  try {
    const result = await job();
    ok(name);
    return result;
  } catch (error) {
    fail(name, describe(error));
    throw new PartFailed();
  }
}

/** Checks that build on each other. The first to fail ends the part: the others would only fail in its wake. */
export async function part(name, job) {
  console.log(`\n${name}`);
  try {
    await job();
  } catch (error) {
    if (error instanceof PartFailed) console.log("     (the rest of this part was not tried)");
    else fail(name, describe(error));
  }
}

class PartFailed extends Error {}

/** Asks `question` until its answer is neither false nor missing, and returns the answer. */
export async function until(what, question, within = PATIENCE) {
  const end = Date.now() + within;
  for (;;) {
    const answer = await question();
    if (answer) return answer;
    if (Date.now() > end) throw new Error(`not within ${within / 1000} s: ${what}`);
    await new Promise(resolve => setTimeout(resolve, 25));
  }
}

/** Throws unless both are the same when written as JSON. */
export function same(found, expected, what) {
  const [left, right] = [JSON.stringify(found), JSON.stringify(expected)];
  if (left !== right) throw new Error(`${what}: found ${left}, expected ${right}`);
}

function describe(error) {
  return String(error?.message ?? error).split("\n").slice(0, 3).join(" ").trim();
}
