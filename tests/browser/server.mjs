// The programs under test, and a cable between them and their pages that can be cut.

import { spawn } from "node:child_process";
import net from "node:net";
import { PATIENCE, until } from "./report.mjs";

const running = new Set();

/** Starts a program on a free port, and returns it once it has printed its address. */
export function start(program) {
  return startOn("127.0.0.1:0", program);
}

/** The same on an address of one's choice, and with more options. */
export async function startOn(listen, program, ...options) {
  const child = spawn(program, ["--listen", listen, ...options], { stdio: ["ignore", "pipe", "pipe"] });
  const server = { child, exit: null, output: "" };
  let out = "";
  child.stdout.setEncoding("utf8").on("data", text => { out += text; });
  child.stderr.setEncoding("utf8").on("data", text => { server.output += text; });
  child.on("error", error => { server.exit = { error: error.message }; });
  child.on("exit", (code, signal) => { server.exit = { code, signal }; running.delete(child); });
  running.add(child);
  // The demo may have to fetch the widget first.
  await until(`${program} prints where it listens`, () => server.exit || out.includes("\n"), 60_000);
  const address = /^listening on (http:\/\/127\.0\.0\.1:\d+)\r?\n/.exec(out)?.[1];
  if (!address) {
    throw new Error(`${program} did not start: ${JSON.stringify(server.exit)} ${out}${server.output}`.trim());
  }
  return Object.assign(server, { address });
}

/** Asks a program to end, and waits until it has. */
export async function stop(server, within = PATIENCE) {
  server.child.kill("SIGTERM");
  return until("the program has ended", () => server.exit, within);
}

/** Gives a program no time for last words, and waits until it has ended. */
export async function kill(server) {
  server.child.kill("SIGKILL");
  return until("the program has ended", () => server.exit);
}

export function killAll() {
  for (const child of running) child.kill("SIGKILL");
}

/** Passes bytes on as they are. Connections that carry a WebSocket can be cut, and kept away until it is mended. */
export class Cable {
  #port;
  #cut = false;
  #sockets = new Set();
  #all = new Set();
  #listener = net.createServer(near => this.#connect(near));

  constructor(address) {
    this.#port = Number(new URL(address).port);
  }

  async listen() {
    await new Promise((resolve, reject) => this.#listener.once("error", reject).listen(0, "127.0.0.1", resolve));
    this.address = `http://127.0.0.1:${this.#listener.address().port}`;
    return this;
  }

  /** Drops every open WebSocket, and returns how many there were. */
  cut() {
    this.#cut = true;
    const count = this.#sockets.size;
    for (const drop of [...this.#sockets]) drop();
    return count;
  }

  mend() {
    this.#cut = false;
  }

  close() {
    this.#listener.close();
    for (const drop of [...this.#all]) drop();
  }

  #connect(near) {
    const far = net.connect({ port: this.#port, host: "127.0.0.1", noDelay: true });
    const drop = () => {
      if (!this.#all.delete(drop)) return;
      this.#sockets.delete(drop);
      near.destroy();
      far.destroy();
    };
    this.#all.add(drop);
    near.setNoDelay(true);
    let head = "";
    near.on("data", bytes => {
      if (head === null) return;
      // A browser opens a connection of its own for each WebSocket, and asks for it in the first lines.
      head += bytes.toString("latin1");
      if (/\r\nupgrade: *websocket\r\n/i.test(head)) {
        head = null;
        if (this.#cut) drop();
        else this.#sockets.add(drop);
      } else if (head.includes("\r\n\r\n")) {
        head = null;
      }
    });
    near.pipe(far).pipe(near);
    for (const side of [near, far]) {
      side.on("error", drop);
      side.on("close", drop);
    }
  }
}
