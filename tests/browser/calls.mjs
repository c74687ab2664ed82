// Pages that call methods of the example `calls`, over their socket and by requests: whatever happens, each promise is
// settled. Takes about two minutes.
//
//   node calls.mjs ../../target/debug/examples/calls
//
// The browser is /usr/bin/chromium, or $CHROMIUM. Exit status: 0 when every check passed, 1 when one failed, 2 when
// nothing could be checked.

import { constants } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { launch } from "./browser.mjs";
import { present, seconds } from "./common.mjs";
import { PATIENCE, check, close, fail, part, same, until } from "./report.mjs";
import { killAll, startOn, stop } from "./server.mjs";
import { Wire, pause } from "./wire.mjs";

const HERE = dirname(fileURLToPath(import.meta.url));
const FILES = {
  "/page/": join(HERE, "calls.html"),
  "/page/dhtmlxscheduler.js": join(HERE, "../../examples/scheduler/node_modules/dhtmlx-scheduler/codebase/dhtmlxscheduler.js"),
};
const TOKENS = ["--token", "manager", "--token", "guest"];
/** Each promise is settled within this time, unless the client has lost the call itself. */
const SETTLED = 10_000;
/** The client opens its next socket after 2 s. */
const NEXT_SOCKET = 2000;
const LOST = "the connection was lost: the call may or may not have been carried out";
// Far more than a run takes: only one that hangs is ended.
const LONGEST_RUN = 600_000;

let browser;
let server;

class Page {
  frames = [];
  errors = [];

  static async open(address, token = "manager") {
    const page = new Page();
    page.wire = await new Wire(server.address, FILES).listen();
    page.context = await browser.newContext();
    page.page = await page.context.newPage();
    page.page.on("pageerror", error => page.errors.push(error.message));
    page.page.on("websocket", socket => {
      socket.on("framereceived", ({ payload }) => page.frames.push(payload));
    });
    await page.page.goto(`${page.wire.address}/page/?${address}&${token}`);
    await page.page.waitForFunction(() => document.title === "ready");
    if (address === "/api/v1") await page.started(1);
    return page;
  }

  /** So many sockets of the page have started. */
  started(count) {
    const starts = () => this.frames.filter(frame => JSON.parse(frame).action === "start").length;
    return until(`socket ${count} has started`, () => starts() >= count);
  }

  call(name, method, ...args) {
    return this.page.evaluate(given => call(...given), [name, method, ...args]);
  }

  /** So many calls in one go, called `name-0` and so on. */
  callMany(count, name, method, ...args) {
    return this.page.evaluate(([count, name, ...rest]) => {
      for (let number = 0; number < count; number += 1) call(`${name}-${number}`, ...rest);
    }, [count, name, method, ...args]);
  }

  settled() {
    return this.page.evaluate(() => settled);
  }

  /** The outcome of a call, once there is one. */
  async outcome(name, within = SETTLED) {
    const { time, ...outcome } = await until(`${name} is settled`, async () => (await this.settled())[name], within);
    return outcome;
  }

  async outcomes(names, within = SETTLED) {
    const found = [];
    await until(`${names.length} calls are settled`, async () => {
      const settled = await this.settled();
      return names.every(name => settled[name]);
    }, within);
    for (const name of names) found.push(await this.outcome(name));
    return found;
  }

  async close() {
    await this.context.close();
    this.wire.close();
    same(this.errors, [], "exceptions in the page");
  }
}

async function outcomes(address) {
  await part(`Every outcome, at ${address}`, async () => {
    const page = await Page.open(address);
    const note = bytes => "x".repeat(bytes);
    for (const [name, method, args, expected] of [
      ["a result", "rooms.add", ["north", 8], { data: 1 }],
      ["an argument with names", "rooms.book", [{ room: "north", seats: 3 }], { data: ["token-1", 5] }],
      ["an error for the page", "rooms.book", [{ room: "north", seats: 9 }], { error: "north has 5 free seats" }],
      ["an error that is not for the page", "rooms.plan", [], { error: "the call failed" }],
      ["a panic", "rooms.share", [0], { error: "the call failed" }],
      ["an unknown name", "rooms.nosuch", [1], { error: 'there is no method "rooms.nosuch"' }],
      ["an argument of another type", "rooms.share", ["x"], { error: 'rooms.share: argument 1: invalid type: string "x", expected u32' }],
      ["no argument", "rooms.share", [], { error: "rooms.share: the method takes 1 argument, and the call has 0" }],
      ["6 KiB", "rooms.note", [note(6 * 1024)], { data: 6 * 1024 }],
      ["60 KiB", "rooms.note", [note(60 * 1024)], { data: 60 * 1024 }],
      ["70 KiB", "rooms.note", [note(70 * 1024)], { error: "the call is larger than 65536 bytes" }],
      ["a whole megabyte", "rooms.note", [note(900_000)], { error: "the call is larger than 65536 bytes" }],
      ["more than the server allows", "rooms.book", [{ room: "north", seats: 1, seconds: 30 }], { error: "the call took too long" }],
    ]) {
      await check(name, async () => {
        await page.call(name, method, ...args);
        same(await page.outcome(name), expected, "its outcome");
      });
    }
    await check("the handshake says who the page is", async () => {
      same(await page.page.evaluate(async () => (await remote.ready()).data), { user: "token-1" }, "data");
    });
    await page.close();

    await check("the guard of a method refuses others", async () => {
      const guest = await Page.open(address, "guest");
      await guest.call("clear", "rooms.clear");
      same(await guest.outcome("clear"), { error: "not allowed" }, "its outcome");
      await guest.close();
      const manager = await Page.open(address);
      await manager.call("clear", "rooms.clear");
      same(await manager.outcome("clear"), { data: null }, "its outcome");
      await manager.close();
    });

    await check("of two hundred calls at once each is settled", async () => {
      const page = await Page.open(address);
      await page.callMany(200, "many", "rooms.note", "four");
      const names = Array.from({ length: 200 }, (_, number) => `many-${number}`);
      const found = await page.outcomes(names);
      const count = found.filter(outcome => outcome.data === 4).length;
      if (count < 100 || found.some(outcome => outcome.data !== 4 && !outcome.error)) {
        throw new Error(`${count} of them with a result: ${JSON.stringify(found.at(-1))}`);
      }
      await page.close();
    });
  });
}

async function cuts() {
  await part("A socket that is cut", async () => {
    const page = await Page.open("/api/v1");
    let sockets = 1;
    await page.call("add", "rooms.add", "south", 50);
    same(await page.outcome("add"), { data: 1 }, "a call");

    await check("after a call has arrived: its result comes on the next socket", async () => {
      await page.call("after", "rooms.book", { room: "south", seats: 1, seconds: 1 });
      await pause(500);
      page.wire.reset();
      await page.started(sockets += 1);
      same(await page.outcome("after"), { data: ["token-1", 49] }, "its outcome");
    });

    await check("while the result is on its way: it comes again", async () => {
      await page.call("on its way", "rooms.book", { room: "south", seats: 1, seconds: 0.5 });
      await pause(200);
      page.wire.dark(1500);
      await page.started(sockets += 1);
      same(await page.outcome("on its way"), { data: ["token-1", 48] }, "its outcome");
    });

    await check("before a call arrives: it is settled with the next one", async () => {
      page.wire.dark(500);
      await page.call("before", "rooms.book", { room: "south", seats: 1 });
      await page.started(sockets += 1);
      await page.call("next", "rooms.note", "four");
      same(await page.outcomes(["before", "next"]), [{ error: LOST }, { data: 4 }], "their outcomes");
    });

    await check("calls that the client loses while it has no socket: so are they", async () => {
      page.wire.reset();
      await pause(100);
      await page.callMany(50, "lost", "rooms.book", { room: "south", seats: 1 });
      await page.started(sockets += 1);
      await pause(500);
      same((await page.settled())["lost-0"], undefined, "before the next call");
      await page.call("next again", "rooms.book", { room: "south", seats: 1 });
      const names = Array.from({ length: 50 }, (_, number) => `lost-${number}`);
      same([...new Set((await page.outcomes(names)).map(outcome => outcome.error))], [LOST], "their outcomes");
      same(await page.outcome("next again"), { data: ["token-1", 47] }, "none of them was carried out");
    });

    await check("calls that are made while the next socket opens come with it, all at once", async () => {
      page.wire.reset();
      await pause(NEXT_SOCKET - 500);
      await page.page.evaluate(() => new Promise(done => {
        // The client has begun its next socket.
        const ask = async () => ((await remote.ready())._mode === 2 ? done() : setTimeout(ask, 1));
        ask();
      }));
      await page.callMany(60, "waited", "rooms.note", "four");
      await page.started(sockets += 1);
      const names = Array.from({ length: 60 }, (_, number) => `waited-${number}`);
      same([...new Set((await page.outcomes(names)).map(({ data }) => data))], [4], "their outcomes");
    });
    await page.close();
  });
}

async function requests() {
  await part("A network that fails requests", async () => {
    const page = await Page.open("/api/calls");
    await page.call("add", "rooms.add", "west", 5);
    await page.outcome("add");
    await check("the client settles the calls itself", async () => {
      await page.context.setOffline(true);
      await page.call("offline", "rooms.note", "four");
      same(await page.outcome("offline"), { error: "Network Error" }, "its outcome");
      await page.context.setOffline(false);
      await page.call("online", "rooms.note", "four");
      same(await page.outcome("online"), { data: 4 }, "its outcome");
    });
    await page.close();
    await check("a refused request settles its calls", async () => {
      const page = await Page.open("/api/calls");
      await page.page.evaluate(async () => { (await remote.ready())._token = "wrong"; });
      await page.call("refused", "rooms.note", "four");
      same(await page.outcome("refused"), { error: "Network Error" }, "its outcome");
      await page.close();
    });
  });
}

async function restart() {
  await part("A server that is restarted", async () => {
    const page = await Page.open("/api/v1");
    await page.call("add", "rooms.add", "east", 10);
    await page.outcome("add");
    await check("a call that ends soon is answered before it goes, and one that does not is, too", async () => {
      await page.call("soon", "rooms.book", { room: "east", seats: 1, seconds: 0.7 });
      await page.call("late", "rooms.book", { room: "east", seats: 1, seconds: 4.5 });
      await pause(200);
      same(await stop(server), { code: 0, signal: null }, "the end of the server");
      const text = "the server shuts down: the call may or may not have been carried out";
      same(await page.outcomes(["soon", "late"]), [{ data: ["token-1", 9] }, { error: text }], "their outcomes");
    });
    await check("on the next server calls go on", async () => {
      await page.call("between", "rooms.note", "four");
      server = await startOn(new URL(server.address).host, program, ...TOKENS);
      await page.started(2);
      await page.call("next", "rooms.note", "four");
      same((await page.outcomes(["next"])), [{ data: 4 }], "its outcome");
      await page.outcome("between");
    });
    await page.close();
  });
}

let program;

async function run() {
  const began = Date.now();
  try {
    if (!process.argv[2]) throw new Error("the program is missing: node calls.mjs ../../target/debug/examples/calls");
    program = resolve(process.argv[2]);
    present(program, constants.X_OK, "build it with: cargo build --examples --features sealed-keys");
    present(FILES["/page/dhtmlxscheduler.js"], constants.R_OK, "fetch it with: (cd examples/scheduler && npm ci)");
    browser = await launch();
    server = await startOn("127.0.0.1:0", program, ...TOKENS);
  } catch (error) {
    fail("the check could start", error.message);
    close();
    return 2;
  }
  const guard = setTimeout(() => {
    fail("the run came to its end", `not within ${seconds(LONGEST_RUN)}`);
    process.exit(close());
  }, LONGEST_RUN);
  try {
    await outcomes("/api/v1");
    await outcomes("/api/calls");
    await cuts();
    await requests();
    await restart();
    await check("at SIGTERM the process ends by itself, with code 0", async () => {
      same(await stop(server, PATIENCE), { code: 0, signal: null }, "its end");
    });
  } catch (error) {
    fail("the run came to its end", error.message);
  } finally {
    clearTimeout(guard);
    await browser.close();
    killAll();
  }
  console.log(`\nafter ${seconds(Date.now() - began)}`);
  return close();
}

process.on("exit", killAll);
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));
process.exit(await run());
