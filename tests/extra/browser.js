// A headless Chromium, driven over its DevTools pipe: no more than these tests need.
"use strict";
const { spawn } = require("child_process");
const fs = require("fs");
const os = require("os");
const path = require("path");

const PATIENCE_MS = 30000;

class Page {
  constructor(send, session) {
    this.send = (method, params) => send(method, params, session);
    this.errors = []; // what was raised
    this.logged = []; // what the browser itself complains of, once Log is enabled
  }

  // The value of an expression, awaited.
  async value(expression) {
    const answer = await this.send("Runtime.evaluate", { expression, returnByValue: true, awaitPromise: true });
    if (answer.exceptionDetails) throw new Error(expression + ": " + answer.exceptionDetails.exception.description);
    return answer.result.value;
  }

  // Load a file and wait until an expression is true.
  async open(file, ready) {
    await this.visit("file://" + file, ready);
  }

  // The same of an address.
  async visit(url, ready) {
    await this.send("Page.navigate", { url });
    await this.until(ready);
  }

  // A window of so many pixels; more: media features, {"prefers-color-scheme": "dark"}.
  async look(width, height, media = {}) {
    await this.send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: false });
    await this.send("Emulation.setEmulatedMedia",
      { features: Object.entries(media).map(([name, value]) => ({ name, value })) });
  }

  // All of the page as PNG.
  async picture(file) {
    const { data } = await this.send("Page.captureScreenshot", { format: "png", captureBeyondViewport: true });
    fs.writeFileSync(file, Buffer.from(data, "base64"));
  }

  async until(expression) {
    const end = Date.now() + PATIENCE_MS;
    while (!await this.value("Boolean(" + expression + ")")) {
      if (Date.now() > end) throw new Error("waited in vain for " + expression);
      await new Promise(done => setTimeout(done, 20));
    }
  }

  mouse(type, x, y, more) {
    return this.send("Input.dispatchMouseEvent", { type, x, y, ...more });
  }

  async click(selector, modifiers = 0) {
    const [x, y] = await this.value(`(() => { const e = document.querySelector(${JSON.stringify(selector)});
      e.scrollIntoView({ block: "center" }); const b = e.getBoundingClientRect();
      return [b.left + b.width / 2, b.top + b.height / 2]; })()`);
    for (const type of ["mousePressed", "mouseReleased"]) {
      await this.mouse(type, x, y, { button: "left", clickCount: 1, modifiers });
    }
  }

  async key(key) {
    await this.send("Input.dispatchKeyEvent", { type: "keyDown", key, text: key.length === 1 ? key : undefined });
    await this.send("Input.dispatchKeyEvent", { type: "keyUp", key });
  }
}

// Run `use(page)` in a browser of its own, which is gone afterwards.
async function withPage(use) {
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), "browser-"));
  const child = spawn("chromium", ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--remote-debugging-pipe", "--window-size=1200,900", "--user-data-dir=" + profile],
  { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
  const gone = new Promise(done => child.on("exit", done));
  const waiting = new Map();
  let text = "", number = 0, page = null;
  child.stdio[4].on("data", chunk => {
    text += chunk;
    for (let end; (end = text.indexOf("\0")) >= 0; text = text.slice(end + 1)) {
      const message = JSON.parse(text.slice(0, end)), asked = waiting.get(message.id);
      waiting.delete(message.id);
      if (asked) message.error ? asked.fail(new Error(message.error.message)) : asked.done(message.result);
      if (page && message.method === "Runtime.exceptionThrown") {
        page.errors.push(message.params.exceptionDetails.exception.description);
      }
      if (page && message.method === "Log.entryAdded" && message.params.entry.level === "error") {
        page.logged.push(message.params.entry.text + " " + (message.params.entry.url || ""));
      }
    }
  });
  child.on("exit", () => waiting.forEach(asked => asked.fail(new Error("the browser is gone"))));
  const send = (method, params = {}, sessionId) => new Promise((done, fail) => {
    waiting.set(++number, { done, fail });
    child.stdio[3].write(JSON.stringify({ id: number, method, params, sessionId }) + "\0");
  });
  try {
    const { targetId } = await send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
    page = new Page(send, sessionId);
    await page.send("Page.enable");
    await page.send("Runtime.enable");
    return await use(page);
  } finally {
    child.kill();
    await gone;
    fs.rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}

module.exports = { withPage };
