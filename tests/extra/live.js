// What a reader does with the live page.
// usage: node live.js [FOLDER]   FOLDER: where pictures of it are to be left
"use strict";
const assert = require("assert");
const path = require("path");
const { spawn } = require("child_process");
const { withPage } = require("./browser.js");
const { upstream, gateway, freePort, load, later } = require("./gateway.js");

const folder = process.argv[2];
const READY = states => `document.body && Number(document.body.dataset.states) >= ${states}`;
const LIGHT = { "prefers-color-scheme": "light" }, DARK = { "prefers-color-scheme": "dark" };
let facts = 0;

function fact(text) {
  facts++;
  console.log("   " + text);
}

const text = (page, selector) => page.value(`document.querySelector(${JSON.stringify(selector)}).innerText`);
const picture = async (page, name) => { if (folder) await page.picture(path.join(folder, name + ".png")); };

// The canvas of batches, as a number that changes with it; and how many of its pixels are those of bars.
const canvasSum = page => page.value(`(() => { const c = byId("c-batches");
  const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data; let sum = 0;
  for (let i = 0; i < d.length; i += 4) sum = (sum * 31 + d[i] + d[i + 1] * 7 + d[i + 2] * 13) % 1000000007;
  return sum; })()`);
const inked = page => page.value(`(() => { const c = byId("c-batches");
  const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data; let n = 0;
  for (let i = 0; i < d.length; i += 4) {
    if (d[i + 3] > 200 && Math.max(d[i], d[i + 1], d[i + 2]) - Math.min(d[i], d[i + 1], d[i + 2]) > 60) n++;
  }
  return n; })()`);

async function moves(page) {
  await page.until("chosen().batches.length > 20");
  const before = await page.value("[chosen().batches.length, chosen().it.totals.batches]"), sum = await canvasSum(page);
  await page.until(`chosen().it.totals.batches > ${before[1] + 5}`);
  assert.ok(await canvasSum(page) !== sum, "the picture stands still");
  assert.ok(await inked(page) > 500, "no bars");
  const [last, wall] = await page.value("[chosen().batches.at(-1).end, now()]");
  assert.ok(wall - last < 10, "the last batch is " + (wall - last) + " s old");
  fact("batches move: " + before[1] + " of them, then " + await page.value("chosen().it.totals.batches"));
  const covers = await page.value(`chosen().batches.some((a, i) => chosen().batches.some((b, k) =>
    i < k && a.lane === b.lane && a.at < b.end - 1e-6 && b.at < a.end - 1e-6))`);
  assert.equal(covers, false);
  fact("no bar covers another");
}

const middleOf = page => page.value(`(() => { view.frozen = now(); const { shown, place } = scene();
  const b = shown.filter(b => b.end < Infinity).sort((x, y) => y.size * y.s - x.size * x.s)[0], at = place(b);
  const c = byId("c-batches"); c.scrollIntoView({ block: "center" }); const r = c.getBoundingClientRect();
  return { n: b.n, worker: b.worker, size: b.size,
    at: [r.left + at.left + at.width / 2, r.top + at.top + at.height / 2] }; })()`);

async function reads(page) {
  const it = await middleOf(page);
  await page.mouse("mouseMoved", ...it.at);
  const tip = await text(page, "#tip");
  assert.ok(tip.startsWith(`Batch ${it.n}, worker ${it.worker} (id `), tip);
  assert.ok(tip.includes("\n" + it.size + " record"), tip);
  assert.match(tip, /went: (full|timeout|idle|drain|policy), by \w+/);
  fact("a batch is read: " + tip.replace(/\n/g, "; "));
  await page.mouse("mouseMoved", 2, 2);
  assert.equal(await page.value(`getComputedStyle(byId("tip")).display`), "none");
  assert.equal(await page.value("view.frozen"), null);
}

async function byKeyboard(page) {
  await page.value(`byId("c-batches").focus()`);
  for (const key of ["End", "ArrowLeft"]) await page.key(key);
  const [n, worker] = await page.value("[view.hovered.n, view.hovered.worker]");
  assert.ok((await text(page, "#read")).startsWith(`Batch ${n}, worker ${worker}`));
  await page.key("ArrowLeft");
  assert.notDeepEqual(await page.value("[view.hovered.n, view.hovered.worker]"), [n, worker]);
  assert.ok(await page.value("view.frozen") > 0, "it goes on while it is read");
  assert.match(await page.value(`getComputedStyle(byId("c-batches")).outlineStyle`), /solid/);
  await page.key("Escape");
  assert.deepEqual(await page.value(`[view.hovered, view.frozen, byId("read").textContent]`), [null, null, ""]);
  await page.click("#as-table summary");
  await page.until(`document.querySelectorAll("#t-batches tr").length >= 10`);
  await page.click("#as-table summary");
  await page.click("#pause");
  const [frozen, states] = await page.value("[view.frozen, Number(document.body.dataset.states)]");
  await page.until(READY(states + 2));
  assert.equal(await page.value("view.frozen"), frozen);
  await page.click("#pause");
  fact("batches are read by keyboard, stand in a table, and stop where one wants them to");
}

async function named(page) {
  const nameless = await page.value(`[...document.querySelectorAll("canvas, select, button, section, figure")].filter(e =>
    !(e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.innerText || e.labels && e.labels.length))
    .map(e => e.outerHTML.slice(0, 80))`);
  assert.deepEqual(nameless, []);
  const { nodes } = await page.send("Accessibility.getFullAXTree");
  const names = role => nodes.filter(n => n.role && n.role.value === role && !n.ignored).map(n => n.name && n.name.value);
  assert.ok(names("heading").length >= 10 && names("region").length >= 10 && names("table").length >= 6);
  assert.ok(names("status").length >= 2 && names("image").every(name => /over two minutes/.test(name)));
  fact(names("heading").length + " headings, " + names("region").length + " regions, " + names("table").length +
    " tables; each picture says what is in it");
}

// The least contrast of any text on what is behind it.
const leastContrast = page => page.value(`(() => {
  const light = rgb => { const [r, g, b] = rgb.match(/[\\d.]+/g).map(v => v / 255).map(v =>
    v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)|transparent/.test(c)) return c; } };
  let least = [99, ""];
  for (const e of document.querySelectorAll("body *")) {
    if (e.id === "tip" || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || !e.offsetParent) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x), c = (a + 0.05) / (b + 0.05);
    if (c < least[0]) least = [c, e.outerHTML.slice(0, 60)];
  }
  return least; })()`);

async function fits(page, name) {
  for (const [width, height] of [[1600, 1200], [400, 800]]) {
    const backs = [];
    for (const media of [LIGHT, DARK]) {
      const states = await page.value("Number(document.body.dataset.states)");
      await page.look(width, height, media);
      await page.until(READY(states + 2));
      const [content, window] = await page.value("(e => [e.scrollWidth, e.clientWidth])(document.documentElement)");
      assert.ok(content <= window, content + " pixels in a window of " + window);
      backs.push(await page.value("getComputedStyle(document.body).backgroundColor"));
      const [contrast, where] = await leastContrast(page);
      assert.ok(contrast >= 4.5, "contrast " + contrast.toFixed(2) + ": " + where);
      await picture(page, `${name}-${width}-${media === DARK ? "dark" : "light"}`);
    }
    assert.notEqual(backs[0], backs[1]);
  }
  await page.look(1200, 900, LIGHT);
  fact("it fits 1,600 and 400 pixels, by day and by night, and no text has less contrast than 4.5");
}

// Figures of a million a second have room at an axis, and what was left out is told.
async function fast(page) {
  const ink = await page.value(`(() => { drawLevel("queue", [9e6], null, "Records:", short); const c = byId("c-queue");
    const d = c.getContext("2d").getImageData(0, 0, 2, c.height).data; return d.filter((v, i) => i % 4 === 3 && v).length; })()`);
  assert.equal(ink, 0, "a label is cut off");
  assert.equal(await text(page, "#left"), "");
  await page.value(`(() => { const { last } = chosen(); for (const [worker, n] of last) last.set(worker, n - 1234); })()`);
  await page.until(`/^1,23\\d came too fast to be shown$|^2,46\\d came/.test(byId("left").textContent)`);
  await page.value("chosen().missed = 0");
  fact("large figures have room; what came too fast to be shown is said");
}

async function calm(page) {
  await page.look(1200, 900, { "prefers-reduced-motion": "reduce" });
  await page.value("window.draws = 0; { const draw = drawBatches; window.drawBatches = () => { draws++; draw(); }; } 0");
  const states = await page.value("draws = 0, Number(document.body.dataset.states)");
  await page.until(READY(states + 4));
  const [draws, since] = await page.value(`[draws, Number(document.body.dataset.states) - ${states}]`);
  assert.ok(draws <= since + 1, draws + " pictures of " + since + " states");
  await page.look(1200, 900, LIGHT);
  await page.until("draws > 30");
  fact("who wants less motion gets a picture for a state, and no more");
}

async function unseen(page) {
  const show = isHidden => page.value(`Object.defineProperty(document, "hidden", { value: ${isHidden}, configurable: true });
    document.dispatchEvent(new Event("visibilitychange")); Number(document.body.dataset.states)`);
  await show(true);
  assert.equal(await page.value("source"), null);
  const timers = await page.value(`(async () => { let n = 0; const set = window.setTimeout;
    window.setTimeout = (...given) => { n++; return set(...given); };
    await poll(); // an answer that was on its way
    window.setTimeout = set; return n; })()`);
  assert.equal(timers, 0);
  const states = await page.value("Number(document.body.dataset.states)");
  await show(false);
  await page.until(READY(states + 2));
  fact("in a tab that is not seen it asks nothing, and goes on when it is");
}

// --- of a gateway --------------------------------------------------------------------------------

async function ofGateway(page) {
  const up = await upstream(60, 8), address = "127.0.0.1:" + await freePort(), options = { upstream: up.url, workers: 2,
    options: "max_batch_size = 16, max_concurrent_batches = 2, batch_timeout_s = 0.05, prefetch_batches = 0" };
  let server = await gateway(address, options);
  const clients = load("http://" + address, 24);
  try {
    await page.visit(`http://${address}/tb/`, READY(3));
    await page.until(`new Set(chosen().batches.map(b => b.worker)).size === 2`);
    assert.equal(await page.value("chosen().it.workers.length"), 2);
    fact("a gateway's two workers are on one page: " + await text(page, "#line"));
    for (const step of [moves, reads, byKeyboard, named, calm, unseen]) await step(page);
    await page.until("chosen().it.failures.length > 0");
    assert.match(await text(page, "#t-failures tr"), /the server refused \(status 400\)/);
    assert.equal(await page.value(`document.body.innerText.includes("poison")`), false);
    assert.equal(await page.value(`document.body.innerText.includes("client-")`), false);
    fact("a failure is told without a word of the upstream's or a client's");
    await fits(page, "gateway");
    await reloaded(page, server);
    assert.deepEqual([page.errors, page.logged], [[], []]);
    fact("no error in the console");
    await server.stop();
    await page.until(`byId("line").textContent.startsWith("no answer since")`);
    server = await gateway(address, options);
    await page.until(`byId("line").textContent === "live" && byId("note").textContent`);
    assert.match(await text(page, "#note"), /^The server was started anew/);
    await page.until("chosen().batches.length > 20");
    assert.deepEqual(page.errors, []);
    assert.deepEqual(page.logged.filter(line => !/Failed to load resource/.test(line)), []);
    fact("the page survives a restart, and says so: " + await text(page, "#note"));
  } finally {
    await clients.stop();
    await server.stop();
    up.close();
  }
}

async function reloaded(page, server) {
  const id = await page.value("store.id");
  server.reload();
  await page.until(`chosen().batches.some(b => / \\(2\\)$/.test(b.worker))`);
  assert.deepEqual(await page.value(`[store.id, byId("note").textContent]`), [id, ""]);
  fact("after HUP its successors go on where the workers were");
}

// --- of a program ----------------------------------------------------------------------------------

function program(address) {
  const child = spawn("luajit", ["tests/extra/live.lua", address, "300"], { stdio: ["ignore", "pipe", "inherit"] });
  const gone = new Promise(done => child.on("exit", done));
  const ready = new Promise((done, fail) => { child.stdout.on("data", done); gone.then(() => fail(new Error("it ended"))); });
  return ready.then(() => ({ stop: async () => { child.kill("SIGKILL"); await gone; } }));
}

async function ofProgram(page) {
  const address = "127.0.0.1:" + await freePort();
  let server = await program(address);
  try {
    page.logged.length = 0;
    await page.visit(`http://${address}/`, READY(3));
    for (const step of [moves, reads, fast]) await step(page);
    await page.until("chosen().it.changes.length >= 4");
    assert.match(await text(page, "#t-changes tr"), /(max_batch_size|batch_timeout_s): [\d.]+ to [\d.]+/);
    fact("changes of options are told: " + await text(page, "#t-changes tr"));
    await fits(page, "program");
    const evil = `<img src=x onerror="document.title='owned'">`;
    assert.equal(await page.value("store.chosen"), evil);
    await page.until(`[...document.querySelectorAll("#t-keys td")].some(e => e.textContent === ${JSON.stringify(evil)})`);
    assert.deepEqual(await page.value(`[document.querySelectorAll("img").length, /owned$/.test(document.title)]`), [0, false]);
    fact("names that are HTML are shown and run nothing");
    await page.send("Network.enable");
    await page.send("Network.setBlockedURLs", { urls: ["*/events"] });
    await server.stop();
    server = await program(address);
    await page.until(`byId("line").textContent === "asking once a second" && byId("note").textContent`);
    const seen = await page.value("Number(document.body.dataset.states)");
    await page.until(READY(seen + 3));
    fact("without events it asks once a second");
    await page.send("Network.setBlockedURLs", { urls: [] });
    await page.until(`byId("line").textContent === "live"`);
    fact("and with events again once there are");
    assert.deepEqual(page.errors, []);
    assert.deepEqual(page.logged.filter(line => !/Failed to load resource/.test(line)), []);
  } finally {
    await server.stop();
  }
}

withPage(async page => {
  await page.send("Log.enable");
  await page.look(1200, 900, LIGHT);
  for (const of of [ofGateway, ofProgram]) await of(page);
  console.log("   " + facts + " facts");
}).catch(error => {
  console.error(error.stack);
  process.exit(1);
});
