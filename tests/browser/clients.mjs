// Live-updates clients without a browser: the handshake, the socket and the frames, as the widgets' client does it.

import WebSocket from "ws";
import { until } from "./report.mjs";

export class Client {
  frames = [];
  closed = null;

  static async connect(address, token) {
    const client = new Client();
    const received = await handshake(address, token);
    if (received.websocket !== true) throw new Error(`the handshake was answered with ${JSON.stringify(received)}`);
    const socket = new WebSocket(socketAddress(address, received.key ?? token));
    client.socket = socket;
    let trouble = null;
    socket.on("error", error => { trouble = error; });
    socket.on("message", (data, isBinary) => client.frames.push(isBinary ? null : JSON.parse(String(data))));
    socket.on("close", code => { client.closed = code; });
    await until("the start message", () => {
      if (trouble) throw trouble;
      return client.frames.some(frame => frame?.action === "start");
    });
    socket.send(JSON.stringify({ action: "subscribe", name: "events" }));
    // Frames are read in order: the answer to this ping shows that the subscription has been read.
    let answered = false;
    socket.once("pong", () => { answered = true; });
    socket.ping();
    await until("an answer to a ping", () => answered);
    return client;
  }

  /** The changes of events it received, in order. */
  received() {
    return this.frames.filter(frame => frame?.action === "event" && frame.body.name === "events")
      .map(frame => frame.body.value);
  }
}

/** How a socket with this token ends, and what it received until then. */
export async function rejected(address, token) {
  const socket = new WebSocket(socketAddress(address, token));
  const frames = [];
  let end = null;
  socket.on("message", data => frames.push(String(data)));
  socket.on("close", code => { end ??= code; });
  socket.on("unexpected-response", (request, response) => {
    end ??= response.statusCode;
    request.destroy();
  });
  socket.on("error", () => {});
  await until("the end of a socket with a wrong token", () => end);
  return { end, frames };
}

export async function handshake(address, token) {
  const headers = { "accept": "application/json", "content-type": "application/json", "remote-token": token };
  const response = await fetch(`${address}/api/v1`, { headers });
  return response.json();
}

/** One write to the REST interface, as the DataProcessor makes it. */
export async function save(address, method, id, event) {
  const response = await fetch(`${address}/events${id === undefined ? "" : `/${id}`}`, {
    method,
    headers: { "content-type": "application/json" },
    body: event && JSON.stringify(event),
  });
  if (response.status !== 200) throw new Error(`${method} was answered with ${response.status}`);
  return response.json();
}

function socketAddress(address, token) {
  return `${address.replace(/^http/, "ws")}/api/v1?token=${token}&ws=1`;
}
