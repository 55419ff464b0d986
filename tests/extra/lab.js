// What a reader does with the page of simulate --report.   usage: node lab.js FOLDER
"use strict";
const assert = require("assert");
const path = require("path");
const { withPage } = require("./browser.js");

const READY = "document.body && document.body.dataset.ready";
const SHIFT = 8;
let facts = 0;

function fact(text) {
  facts++;
  console.log("   " + text);
}

const span = page => page.value("[state.from, state.to]");
const text = (page, selector) => page.value(`document.querySelector(${JSON.stringify(selector)}).textContent`);

// How many pixels of a canvas are not white.
const inked = (page, selector) => page.value(`(() => { const c = document.querySelector("${selector}");
  const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data; let n = 0;
  for (let i = 0; i < d.length; i += 4) if (d[i + 3] > 0 && d[i] + d[i + 1] + d[i + 2] < 700) n++;
  return n; })()`);

const canvasBox = (page, side) => page.value(`(() => { const c = document.querySelector("#figure-${side} canvas");
  c.scrollIntoView({ block: "center" }); const b = c.getBoundingClientRect(); return [b.left, b.top, b.width]; })()`);

async function pictures(page) {
  for (const selector of ["#figure-a canvas", "#figure-b canvas", "#curves", "#frontier"]) {
    assert.ok(await inked(page, selector) > 500, selector + " is empty");
  }
  fact("all four pictures are drawn");
  const read = await page.value(`data.runs.map(run => shareAt(run.curve, data.slo))`);
  const goodput = await page.value(`data.runs.map(run =>
    Number(run.texts[data.figures.findIndex(f => f.name.includes("goodput"))]))`);
  read.forEach((share, i) => assert.ok(Math.abs(share - goodput[i]) <= 0.051, share + " read of " + goodput[i]));
  fact("at the SLO the curves read the goodput: " + goodput.join(", ") + " %");
}

async function choosing(page) {
  assert.match(await text(page, "#figure-a figcaption"), /^A: fifo$/);
  assert.match(await text(page, "#figure-b figcaption"), /^B: eager$/);
  await page.click("#keys li:nth-child(3) button");
  assert.match(await text(page, "#figure-a figcaption"), /shortest_first/);
  await page.click("#keys li:nth-child(1) button", SHIFT);
  assert.equal(await text(page, "#figure-b figcaption"), "B: fifo");
  await page.click("#swap");
  assert.equal(await text(page, "#figure-a figcaption"), "A: fifo");
  const pick = value => page.value(`(() => { const list = document.getElementById("run-b"); list.value = "${value}";
    list.dispatchEvent(new Event("change")); })()`);
  await pick(-1);
  assert.equal(await page.value(`document.getElementById("figure-b").hidden`), true);
  await pick(1);
  assert.equal(await text(page, "#figure-b figcaption"), "B: eager");
  fact("runs are chosen by their keys, by the lists, and swapped");
}

async function comparing(page) {
  const rows = await page.value(`Array.from(document.querySelectorAll("#comparison tr"), r =>
    Array.from(r.cells, c => c.textContent))`);
  const goodput = rows.find(r => r[0].includes("goodput")), values = goodput.slice(1, 3).map(Number);
  assert.ok(values.every(v => v >= 0 && v <= 100));
  const raw = await page.value(`(k => [data.runs[state.a].values[k], data.runs[state.b].values[k]])(
    data.figures.findIndex(f => f.name.includes("goodput")))`);
  assert.ok(Math.abs(Number(goodput[3]) - (raw[1] - raw[0])) < 1e-3 && Math.abs(raw[0] - values[0]) < 0.051);
  const cell = await page.value(`Array.from(document.querySelectorAll("#comparison tr")).find(r =>
    r.cells[0].textContent.includes("goodput")).cells[3].className`);
  assert.equal(cell, raw[1] > raw[0] ? "better" : raw[1] < raw[0] ? "worse" : "");
  fact("the comparison says " + goodput.join(" | "));
}

async function zooming(page) {
  const whole = await span(page), [left, top, width] = await canvasBox(page, "a");
  await page.mouse("mousePressed", left + width * 0.3, top + 60, { button: "left", clickCount: 1 });
  await page.mouse("mouseMoved", left + width * 0.5, top + 60, { button: "left", buttons: 1 });
  await page.mouse("mouseReleased", left + width * 0.5, top + 60, { button: "left", clickCount: 1 });
  const dragged = await span(page), share = (dragged[1] - dragged[0]) / (whole[1] - whole[0]);
  assert.ok(Math.abs(share - 0.2 * width / (width - 68)) < 0.01, "dragged to " + share);
  await page.mouse("mouseWheel", left + width * 0.5, top + 60, { deltaX: 0, deltaY: -120 });
  await page.until(`state.to - state.from < ${(dragged[1] - dragged[0]) * 0.99}`);
  await page.value(`document.querySelector("#figure-a canvas").focus()`);
  const before = await span(page);
  await page.key("ArrowRight");
  assert.ok((await span(page))[0] > before[0]);
  await page.key("+");
  const close = await span(page);
  assert.ok(close[1] - close[0] < before[1] - before[0]);
  assert.ok(new URL(await page.value("location.href")).hash.includes("from=" + close[0]));
  await page.key("0");
  assert.deepEqual(await span(page), whole);
  fact("time is zoomed by dragging, wheel and keys, and all of it is back: " + whole.map(Math.round).join(" to ") + " s");
}

// The middle of the bar of a batch of run A, after a zoom to it.
const pointAt = (page, i) => page.value(`(() => { const run = data.runs[state.a], b = run.batches;
  zoomTo(b.from[${i}] - 1, b.to[${i}] + 1);
  const c = document.querySelector("#figure-a canvas"); c.scrollIntoView({ block: "center" });
  const r = c.getBoundingClientRect(), bar = barOf(run, ${i}, boxes(c.clientWidth).batches, state, scales().size);
  return [r.left + bar.x + bar.width / 2, r.top + (bar.top + bar.bottom) / 2]; })()`);

async function hovering(page) {
  const i = await page.value(`data.runs[state.a].batches.size.findIndex(n => n > 2)`);
  const [x, y] = await pointAt(page, i);
  await page.mouse("mouseMoved", x, y);
  const tip = await text(page, "#tip");
  const [size, cost] = await page.value(`(b => [b.size[${i}], b.cost[${i}]])(data.runs[state.a].batches)`);
  assert.ok(tip.startsWith(`batch ${i + 1}: ${size} records, ${Math.round(cost).toLocaleString("en-US")} tokens`), tip);
  assert.match(tip, /went: (full|timeout|idle|drain|policy)/);
  fact("a batch is read: " + tip.replace(/\n/g, "; "));
  await page.mouse("mouseMoved", 2, 2);
  assert.equal(await page.value(`getComputedStyle(document.getElementById("tip")).display`), "none");
}

async function links(page, file) {
  await page.value(`location.hash = "#a=2&b=0&from=3&to=9"`);
  await page.until(`state.a === 2 && state.from === 3`);
  assert.deepEqual(await page.value("[state.a, state.b, state.from, state.to]"), [2, 0, 3, 9]);
  await page.value(`location.hash = "#a=77&b=x&from=9&to=3"`);
  await page.until(`state.from === 0`);
  assert.deepEqual(await page.value("[state.a, state.b]"), [2, 0]);
  fact("a link shows what it says, and nonsense in it changes nothing");
}

async function slots(page, folder) {
  await page.open(path.join(folder, "slots.html"), READY + ` && data.runs.length === 1`);
  const lanes = await page.value("data.runs[0].lanes");
  assert.equal(lanes, 3);
  const overlap = await page.value(`(b => { const ends = {}; return b.from.some((t, i) => {
    const before = ends[b.lane[i]]; ends[b.lane[i]] = b.to[i]; return before > t; }); })(data.runs[0].batches)`);
  assert.equal(overlap, false);
  const i = await page.value("data.runs[0].batches.lane.indexOf(2)");
  const [x, y] = await pointAt(page, i);
  await page.mouse("mouseMoved", x, y);
  assert.ok((await text(page, "#tip")).includes("slot 2"));
  fact("three slots are three rows, in which no bar covers another");
}

withPage(async page => {
  const folder = process.argv[2], file = path.join(folder, "one.html");
  await page.open(file, READY);
  for (const step of [pictures, choosing, comparing, zooming, hovering, links]) await step(page, file);
  await slots(page, folder);
  const loaded = await page.value(`performance.getEntriesByType("resource").length`);
  assert.equal(loaded, 0);
  assert.deepEqual(page.errors, []);
  fact("nothing else is loaded, and no error was raised");
  console.log("   " + facts + " facts");
}).catch(error => {
  console.error(error.stack);
  process.exit(1);
});
