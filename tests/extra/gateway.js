// A gateway with an upstream and clients of its own, for what is looked at while it runs.
"use strict";
const { spawn } = require("child_process");
const http = require("http");
const fs = require("fs");
const os = require("os");
const path = require("path");

const PATIENCE_MS = 30000;
const later = ms => new Promise(done => setTimeout(done, ms));

// An upstream that takes so long for a call, and so long for each input: its address and what ends it.
function upstream(callMs, inputMs) {
  const server = http.createServer((request, response) => {
    let text = "";
    request.on("data", chunk => { text += chunk; });
    request.on("end", async () => {
      const { input } = JSON.parse(text || '{"input":[]}'); // asked whether it is there
      await later(callMs + inputMs * input.length);
      const isBad = input.some(one => one.includes("poison"));
      const body = isBad ? { error: { message: "cannot take " + input[0], type: "invalid_request_error" } } :
        { data: input.map((_, index) => ({ index, embedding: [1] })), usage: { prompt_tokens: 1, total_tokens: 1 } };
      response.writeHead(isBad ? 400 : 200, { "content-type": "application/json" });
      response.end(JSON.stringify(body));
    });
  });
  return new Promise(done => server.listen(0, "127.0.0.1", () =>
    done({ url: "http://127.0.0.1:" + server.address().port, close: () => server.close() })));
}

// The example gateway. @param options  of start.sh: {workers: 2, ...}
async function gateway(listen, options) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "gateway-"));
  const words = Object.entries(options).flatMap(([name, value]) => ["--" + name, String(value)]);
  const child = spawn("sh", ["examples/openresty/start.sh", "--listen", listen, "--prefix", folder, ...words],
    { stdio: ["ignore", "ignore", "pipe"] });
  let log = "", hasEnded = false;
  child.stderr.on("data", chunk => { log += chunk; });
  const gone = new Promise(done => child.on("exit", done)).then(() => { hasEnded = true; });
  const stop = async () => {
    if (!hasEnded) child.kill("SIGTERM");
    await gone;
    fs.rmSync(folder, { recursive: true, force: true });
  };
  const end = Date.now() + PATIENCE_MS;
  while (await get("http://" + listen + "/health").catch(() => 0) !== 200) {
    if (hasEnded || Date.now() > end) { await stop(); throw new Error("the gateway does not start: " + log); }
    await later(50);
  }
  return { stop, log: () => log, reload: () => process.kill(Number(fs.readFileSync(path.join(folder, "nginx.pid"))), "SIGHUP") };
}

function get(url) {
  return new Promise((done, fail) => http.get(url, { agent: false }, response => {
    response.resume();
    response.on("end", () => done(response.statusCode));
  }).on("error", fail));
}

// A port that is free now.
function freePort() {
  const server = http.createServer();
  return new Promise(done => server.listen(0, "127.0.0.1", () => {
    const { port } = server.address();
    server.close(() => done(port));
  }));
}

// Clients that ask for lists of texts, as many at once, until stop(): whatever is answered.
function load(url, clients) {
  let isOver = false, sent = 0;
  async function client(k) {
    const agent = new http.Agent({ keepAlive: false }); // so that each worker has its share
    for (let i = 0; !isOver; i++) {
      const n = 1 + (k * 7 + i * 3) % 5, input = [];
      for (let j = 0; j < n; j++) input.push("word ".repeat(3 + (k * 13 + i * 5 + j * 11) % 60));
      if (k === 0 && i % 25 === 24) input[0] = "poison";
      await ask(agent, url, { model: "m" + k % 2, input }, "Bearer client-" + k % 6);
      sent++;
      await later((k * 37 + i * 53) % 400);
    }
    agent.destroy();
  }
  const all = Promise.all([...Array(clients).keys()].map(client));
  return { sent: () => sent, stop: async () => { isOver = true; await all; } };
}

function ask(agent, url, body, authorization) {
  const text = JSON.stringify(body);
  return new Promise(done => {
    const request = http.request(url + "/v1/embeddings", { method: "POST", agent,
      headers: { "content-type": "application/json", "content-length": Buffer.byteLength(text), authorization } }, response => {
      response.resume();
      response.on("close", done);
    });
    request.on("error", () => setTimeout(done, 100)); // nobody is there for a while
    request.end(text);
  });
}

module.exports = { upstream, gateway, freePort, load, later };
