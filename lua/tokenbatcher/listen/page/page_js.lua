--- The page's script, last part: tables, and what the reader does.

return [==[
// Seconds as people read them.
function time(s) {
  if (s >= 100) return Math.round(s) + " s";
  if (s >= 1) return s.toFixed(s < 10 ? 2 : 1) + " s";
  return s >= 0.001 || s === 0 ? Number((s * 1000).toPrecision(3)) + " ms" : Math.round(s * 1e6) + " µs";
}
const percent = share => (100 * share).toFixed(1) + " %";

// Rows of a table. A cell is text, or {text, is (class)}, or {share (0 to 1)}: a bar. All of it is text.
function fill(id, rows, none) {
  const body = byId("t-" + id), columns = body.parentNode.tHead ? body.parentNode.tHead.rows[0].cells.length : 2;
  if (!rows.length) rows = [[{ text: none, is: "words soft", columns }]];
  body.replaceChildren(...rows.map(cells => {
    const row = document.createElement("tr");
    if (cells.is) row.className = cells.is;
    for (const cell of cells) {
      const td = document.createElement("td");
      if (cell.columns) td.colSpan = cell.columns;
      if (cell.is) td.className = cell.is;
      if (cell.title) td.title = cell.title;
      if (cell.share === undefined) td.textContent = cell.text === undefined ? cell : cell.text;
      else {
        const bar = document.createElement("span");
        bar.style.width = 100 * cell.share + "%";
        td.className = "share";
        td.append(bar);
      }
      row.append(td);
    }
    return row;
  }));
}

function note(text) { byId("note").textContent = text; }

function fillTiles(it) {
  const { rates, levels, limits, totals } = it, slots = Math.max(1, limits.slots);
  const tiles = [["in /s", rates.submitted], ["answered /s", rates.completed], ["failed /s", rates.failed, true],
    ["refused /s", rates.rejected, true], ["expired /s", rates.expired, true], ["queued", levels.queue],
    ["running", levels.running + " of " + slots], ["all answers", totals.completed],
    ["all failures", totals.failed, true], ["padding", percent(it.padding)]];
  byId("tiles").replaceChildren(...tiles.map(([name, value, isBad]) => {
    const box = document.createElement("div"), dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = name;
    dd.textContent = typeof value === "number" ? short(value) : value;
    if (isBad && value > 0) box.className = "bad";
    box.append(dt, dd);
    return box;
  }));
}

function fillLatency({ latency }) {
  const most = Math.max(latency.total.p99, latency.wait.p99, latency.service.p99) || 1;
  byId("over").textContent = "over the last " + time(latency.over_s);
  fill("latency", [["waits", latency.wait], ["is served", latency.service], ["both", latency.total]].map(([name, of]) =>
    of.count ? [name, time(of.p50), time(of.p95), time(of.p99), { share: of.p99 / most }] : [name, "-", "-", "-", ""]));
}

// Buckets from the first that has any to the one of the limit, which is marked.
function fillBins(id, bins, limit) {
  let first = bins.counts.findIndex(n => n > 0);
  const rows = [], most = Math.max(...bins.counts, 1);
  for (let i = Math.max(0, first); i < bins.counts.length; i++) {
    const isLast = limit <= bins.bounds[i] && !(limit <= (bins.bounds[i - 1] || 0));
    const row = [short(bins.bounds[i]) + (isLast ? ", limit " + short(limit) : ""), short(bins.counts[i]),
      { share: bins.counts[i] / most }];
    if (isLast) row.is = "limit";
    rows.push(row);
  }
  if (rows.length && !rows.some(row => row.is)) {
    const row = ["limit " + short(limit), "", ""];
    row.is = "limit";
    rows.push(row);
  }
  fill(id, rows, "none yet");
}

function fillNames(id, names) {
  byId("h-" + id).lastElementChild.textContent = "by cost, last minutes" + (names.is_hashed ? ", as pseudonyms" : "") +
    (names.is_partial ? ", from a part of the records" : "");
  fill(id, names.rows.map(([name, cost, records]) => [{ text: name, is: "name", title: name }, short(records),
    short(cost), percent(names.cost ? cost / names.cost : 0)]), "no record has a " + id.slice(0, -1));
}

function fillLists(it) {
  const workers = it.workers.slice().sort((a, b) => a.id.localeCompare(b.id, "en", { numeric: true }));
  fill("workers", workers.map(w => [w.id, w.pid, short(w.batches), w.batches ? (w.records / w.batches).toFixed(1) : "-",
    percent(w.busy), store.now - w.at < 1 ? "now" : time(store.now - w.at) + " ago"]), "none");
  fill("failures", it.failures.slice().reverse().map(f => [clock(f.at), { text: f.worker, is: "left" }, f.n,
    f.failed + " of " + f.size, { text: f.text, is: "words" }]), "none");
  fill("changes", it.changes.slice().reverse().map(c => [clock(c.at), { text: c.text, is: "words" }]),
    "none since it is watched");
  fill("options", it.options.map(([name, value, unit]) =>
    [name, { text: value + (unit ? " " + unit : ""), is: "words" }]));
  const policy = it.options.find(o => o[0] === "policy");
  byId("policy").textContent = policy ? policy[1] : "";
}

function fillBatches() {
  const { missed, batches } = chosen();
  byId("left").textContent = [missed ? short(missed) + " came too fast to be shown" : "",
    batches.length < MOST ? "" : "the last " + short(MOST)].filter(Boolean).join("; ");
  if (!byId("as-table").open) return;
  fill("batches", chosen().batches.slice(-20).reverse().map(b => [b.n, { text: b.worker, is: "left" },
    { text: clock(b.end), is: "left" }, time(b.s), short(b.size), short(b.cost), percent(b.padding),
    { text: b.reason, is: "left" }, b.calls, b.failed, { text: b.policy, is: "left" }]), "none yet");
}

function fillHead(it) {
  const select = byId("batcher"), names = [...store.batchers.keys()];
  byId("choice").hidden = names.length < 2 && !names[0];
  if (names.join("\n") !== [...select.options].map(o => o.value).join("\n")) {
    select.replaceChildren(...names.map(name => new Option(name || "(no name)", name)));
  }
  select.value = store.chosen;
  const up = Math.max(0, ...it.workers.map(w => w.up_s));
  byId("state").textContent = it.state;
  byId("state").className = "pill " + { running: "good", draining: "warn" }[it.state];
  byId("facts").replaceChildren(...it.facts.map(([name, text, how]) => {
    const pill = document.createElement("span");
    pill.className = "pill " + (/^(good|warn|bad)$/.test(how) ? how : "");
    pill.textContent = name + " " + text;
    return pill;
  }));
  byId("about").textContent = "version " + store.version + ", watched for " + time(up) +
    (store.leftOut ? "; " + store.leftOut + " more batchers are not shown" : "");
  document.title = (store.chosen || "TokenBatcher") + ": " + it.levels.queue + " queued";
}

function show() {
  const known = chosen();
  if (!known) return;
  const it = known.it;
  fillHead(it);
  fillTiles(it);
  fillLatency(it);
  fillBins("sizes", it.sizes, it.limits.size);
  fillBins("costs", it.costs, it.limits.cost);
  fillNames("keys", it.keys);
  fillNames("groups", it.groups);
  fillLists(it);
  fillBatches();
  drawLevels();
  drawBatches();
  document.body.dataset.states = Number(document.body.dataset.states || 0) + 1;
}

// --- what the reader does ----------------------------------------------------
const calm = matchMedia("(prefers-reduced-motion: reduce)");
let nextDraw = 0, isPaused = false;

function frame(at) {
  if (at >= nextDraw && chosen() && view.frozen === null && !calm.matches && lostAt === null) {
    nextDraw = at + 66;
    drawBatches();
  }
  requestAnimationFrame(frame);
}

function freeze(isFrozen) {
  view.frozen = isFrozen || isPaused ? view.frozen === null ? viewEnd() : view.frozen : null;
}

function choose(batch) {
  view.hovered = batch;
  freeze(batch !== null);
  if (batch && batch.end < Infinity) {
    if (batch.at < view.frozen - view.span) view.frozen = batch.at + view.span * 0.8;
    if (batch.end > view.frozen) view.frozen = batch.end + view.span * 0.1;
  }
  byId("read").textContent = batch ? aboutBatch(batch).replaceAll("\n", "; ") : "";
  drawBatches();
}

function step(how) {
  const list = chosen().batches;
  if (!list.length) return;
  const at = list.indexOf(view.hovered);
  choose(list[how === "first" ? 0 : how === "last" || at < 0 ? list.length - 1 :
    Math.min(list.length - 1, Math.max(0, at + how))]);
}

function startPage() {
  const canvas = byId("c-batches");
  canvas.addEventListener("mousemove", event => {
    if (!chosen()) return;
    view.hovered = batchAt(event.offsetX, event.offsetY);
    freeze(view.hovered !== null);
    canvas.style.cursor = view.hovered ? "pointer" : "";
    showTip(event, view.hovered ? aboutBatch(view.hovered) : "");
    drawBatches();
  });
  canvas.addEventListener("mouseleave", event => {
    if (!chosen()) return;
    showTip(event, "");
    choose(null);
  });
  canvas.addEventListener("keydown", event => {
    const act = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), Home: () => step("first"),
      End: () => step("last"), Escape: () => choose(null) }[event.key];
    if (act && chosen()) { event.preventDefault(); act(); }
  });
  canvas.addEventListener("blur", () => { if (chosen()) choose(null); });
  byId("pause").addEventListener("click", event => {
    isPaused = !isPaused;
    event.target.setAttribute("aria-pressed", isPaused);
    freeze(false);
    if (chosen()) drawBatches();
  });
  byId("span").addEventListener("change", event => {
    view.span = Number(event.target.value);
    if (chosen()) drawBatches();
  });
  byId("batcher").addEventListener("change", event => { store.chosen = event.target.value; choose(null); show(); });
  byId("as-table").addEventListener("toggle", () => { if (chosen()) fillBatches(); });
  window.addEventListener("resize", () => { if (chosen()) { drawLevels(); drawBatches(); } });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); if (chosen()) show(); });
  document.addEventListener("visibilitychange", () => { if (document.hidden) stop(); else listen(); });
  readColours();
  if (!document.hidden) listen();
  requestAnimationFrame(frame);
}
startPage();
]==]
