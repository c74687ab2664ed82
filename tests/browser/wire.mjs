// The connection of one page to the server: it hands the page its files, passes everything else on, and can be made as
// bad as a train ride. Sockets break; plain requests are only late, for a save that fails is no matter of live updates.

import { readFile } from "node:fs/promises";
import http from "node:http";
import net from "node:net";
import { extname } from "node:path";

const KINDS = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css" };
/** Pings are shorter than this: what is cut in the middle should be something that the page wants to know. */
const SHORT = 32;
/** How many milliseconds there are between two pieces of a list that is given slowly. */
const TICK = 100;

export class Wire {
  /** How many milliseconds the next save takes longer than it must: half of it to the server, half of it back. */
  saveDelay = () => 0;
  /** Awaited when the server has answered a list, before the page gets it. */
  beforeList = async () => {};
  /** How many bytes of a list the page gets in a second. */
  listRate = Infinity;
  /**
   * Who waits for a slow page. The server does when this is true: a list is read from it no faster than the page takes
   * it. When it is false the wire does, as a proxy with a buffer: it has read the whole list before the page gets any.
   */
  listWaits = false;
  /** When the server had answered a list, or with `listWaits` begun to. */
  listRead = null;
  /** When the page was given the last byte of a list. */
  listEnded = null;
  /** How often a socket was reset, cut or left in the dark. */
  broken = { reset: 0, cut: 0, dark: 0 };

  #port;
  #files;
  #links = new Set();
  #server = http.createServer((request, response) => {
    this.#pass(request, response).catch(error => {
      // What has been given in part must not look like the whole.
      if (response.headersSent) response.destroy();
      else response.writeHead(502).end(String(error.message));
    });
  });

  /** `files` holds what the page gets from disk, by its path. */
  constructor(address, files) {
    this.#port = Number(new URL(address).port);
    this.#files = files;
    this.#server.on("upgrade", (request, near, head) => this.#join(request, near, head));
  }

  async listen() {
    await new Promise((resolve, reject) => this.#server.once("error", reject).listen(0, "127.0.0.1", resolve));
    this.address = `http://127.0.0.1:${this.#server.address().port}`;
    return this;
  }

  close() {
    this.#server.close();
    this.mend();
    for (const link of [...this.#links]) link.end();
    this.#server.closeAllConnections();
  }

  // ---- Bad weather -----------------------------------------------------------------------------------------------

  /** Both ends of every socket learn at once that it is gone. */
  reset() {
    for (const link of [...this.#links]) {
      this.broken.reset += 1;
      link.end();
    }
  }

  /** The page gets a part of the next frame, and then the end. */
  cut() {
    for (const link of this.#links) link.state = "to be cut";
  }

  /** For some time nothing arrives on either side, though both think that it does; then both learn of the end. */
  dark(time) {
    for (const link of this.#links) {
      if (link.state === "dark") continue;
      this.broken.dark += 1;
      link.state = "dark";
      link.timer = setTimeout(link.end, time);
    }
  }

  /** Nothing else will break. */
  mend() {
    for (const link of [...this.#links]) {
      if (link.state === "dark") link.end();
      else link.state = "open";
    }
  }

  // ---- Requests --------------------------------------------------------------------------------------------------

  async #pass(request, response) {
    const { pathname } = new URL(request.url, this.address);
    const file = this.#files[pathname];
    if (file) {
      response.writeHead(200, { "content-type": `${KINDS[extname(file)]}; charset=utf-8` });
      response.end(await readFile(file));
      return;
    }
    const events = /^\/events(\/|$)/.test(pathname);
    const late = events && request.method !== "GET" ? this.saveDelay() / 2 : 0;
    const body = await whole(request);
    await pause(late);
    const isList = events && request.method === "GET";
    const { status, headers, answer } = await this.#ask(request, body);
    const content = isList && this.listWaits ? answer : [await whole(answer)];
    if (isList) this.listRead = Date.now();
    await pause(late);
    if (isList) await this.beforeList();
    response.writeHead(status, headers);
    if (isList) await this.#trickle(content, response);
    else for (const part of content) response.write(part);
    response.end();
    if (isList) response.once("finish", () => { this.listEnded = Date.now(); });
  }

  async #trickle(content, response) {
    const share = Math.max(1, this.listRate * TICK / 1000);
    let due = Date.now();
    for await (const part of content) {
      for (let from = 0; from < part.length; from += share) {
        const piece = part.subarray(from, from + share);
        due += piece.length * 1000 / this.listRate;
        await pause(due - Date.now());
        if (response.destroyed) return;
        response.write(piece);
      }
    }
  }

  #ask({ method, url, headers }, body) {
    const { connection, ...rest } = headers;
    return new Promise((resolve, reject) => {
      const options = { host: "127.0.0.1", port: this.#port, method, path: url, headers: rest, agent: false };
      const asked = http.request(options, answer => {
        const { connection, "keep-alive": alive, "transfer-encoding": coding, ...headers } = answer.headers;
        resolve({ status: answer.statusCode, headers, answer });
      });
      asked.on("error", reject);
      asked.end(body);
    });
  }

  // ---- Sockets ---------------------------------------------------------------------------------------------------

  #join(request, near, head) {
    const far = net.connect({ port: this.#port, host: "127.0.0.1", noDelay: true });
    const link = { state: "open", timer: null };
    link.end = () => {
      if (!this.#links.delete(link)) return;
      clearTimeout(link.timer);
      reset(near);
      reset(far);
    };
    this.#links.add(link);
    near.setNoDelay(true);
    const lines = [`${request.method} ${request.url} HTTP/1.1`];
    for (let at = 0; at < request.rawHeaders.length; at += 2) {
      lines.push(`${request.rawHeaders[at]}: ${request.rawHeaders[at + 1]}`);
    }
    far.write(`${lines.join("\r\n")}\r\n\r\n`);
    far.write(head);
    far.on("data", bytes => {
      if (link.state === "dark") return;
      if (link.state === "to be cut" && bytes.length > SHORT) {
        this.broken.cut += 1;
        link.state = "dark";
        near.write(bytes.subarray(0, bytes.length - 7), link.end);
      } else {
        carry(bytes, far, near);
      }
    });
    near.on("data", bytes => {
      if (link.state !== "dark") carry(bytes, near, far);
    });
    // One that is left in the dark does not learn of the other's end, either.
    const ended = () => {
      if (link.state !== "dark") link.end();
    };
    near.on("end", () => (link.state === "dark" ? null : far.end()));
    far.on("end", () => (link.state === "dark" ? null : near.end()));
    for (const side of [near, far]) {
      side.on("error", ended);
      side.on("close", ended);
    }
  }
}

function carry(bytes, from, to) {
  if (to.destroyed || to.write(bytes)) return;
  from.pause();
  to.once("drain", () => from.resume());
}

/** Node.js does not come to its end after the reset of a socket that is being closed in the ordinary way. */
function reset(socket) {
  if (socket.writableEnded) socket.destroy();
  else socket.resetAndDestroy();
}

async function whole(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return Buffer.concat(parts);
}

export function pause(time) {
  return time > 0 ? new Promise(resolve => setTimeout(resolve, time)) : undefined;
}
