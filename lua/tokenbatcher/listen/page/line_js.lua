--- The page's script, second part: what the server has said, and how it is asked.

return [==[
const KEPT_S = 130, MOST = 4000; // batches here: so long, so many
const store = { id: "", batchers: new Map(), chosen: "", now: 0, offset: null, fields: [] };

// The server's clock, now; and a time of it as people read it.
const now = () => store.offset === null ? 0 : performance.now() / 1000 + store.offset;
const clock = t => new Date(Date.now() - (now() - t) * 1000).toLocaleTimeString("en-GB");
const chosen = () => store.batchers.get(store.chosen);

// A batch as it is called while it runs and when it is over.
const nameOf = b => b.worker + " " + b.id + " " + b.at;

// Batches by what the columns are called; `end` is when it was over.
function newBatches(known, rows) {
  const out = [];
  for (const row of rows) {
    const b = Object.fromEntries(store.fields.map((name, i) => [name, row[i]]));
    const id = b.worker + " " + b.n, last = known.last.get(b.worker);
    if (known.seen.has(id)) continue;
    known.seen.add(id);
    if (last && b.n > last + 1) known.missed += b.n - last - 1;
    known.last.set(b.worker, Math.max(last || 0, b.n));
    b.end = b.at + b.s;
    out.push(b);
  }
  return out;
}

// Each batch gets the first row in which nothing else runs meanwhile, and keeps the one in which it ran.
function giveLanes(known, batches, running) {
  const placed = known.batches.concat(running).filter(b => b.lane !== undefined), lanes = new Map();
  for (const b of batches) b.lane = known.lanes.get(nameOf(b));
  placed.push(...batches.filter(b => b.lane !== undefined));
  for (const b of batches.concat(running).sort((x, y) => x.at - y.at)) {
    if (b.lane !== undefined) continue;
    const taken = new Set();
    for (const other of placed) if (other.at < b.end && other.end > b.at) taken.add(other.lane);
    for (b.lane = 0; taken.has(b.lane);) b.lane++;
    placed.push(b);
  }
  for (const b of running) lanes.set(nameOf(b), b.lane);
  known.lanes = lanes;
}

function readBatches(known, it) {
  const batches = newBatches(known, it.batches);
  const running = it.running.map(([id, worker, at, size, cost, reason, calls]) =>
    ({ id, worker, at, size, cost, reason, calls, end: Infinity, padding: 0, failed: 0 }));
  for (const b of running) b.lane = known.lanes.get(nameOf(b));
  giveLanes(known, batches, running);
  known.running = running;
  known.batches = known.batches.concat(batches).sort((a, b) => a.end - b.end);
  const old = store.now - KEPT_S;
  let gone = Math.max(0, known.batches.length - MOST);
  while (gone < known.batches.length && known.batches[gone].end < old) gone++;
  for (const b of known.batches.splice(0, gone)) known.seen.delete(b.worker + " " + b.n);
}

function take(state) {
  if (state.id !== store.id) {
    if (store.id) note("The server was started anew; figures begin again (seen at " + clock(now()) + ").");
    Object.assign(store, { id: state.id, offset: null });
    store.batchers.clear();
  }
  store.fields = state.batch_fields;
  store.now = state.now;
  const offset = state.now - performance.now() / 1000;
  if (store.offset === null || Math.abs(offset - store.offset) > 0.5) store.offset = offset;
  else store.offset += 0.1 * (offset - store.offset); // else bars would tremble
  const names = new Set(state.batchers.map(b => b.name));
  for (const name of store.batchers.keys()) if (!names.has(name)) store.batchers.delete(name);
  for (const b of state.batchers) {
    const known = store.batchers.get(b.name) ||
      { batches: [], running: [], seen: new Set(), last: new Map(), lanes: new Map(), missed: 0 };
    known.it = b;
    readBatches(known, b);
    store.batchers.set(b.name, known);
  }
  if (!store.batchers.has(store.chosen)) store.chosen = state.batchers.length ? state.batchers[0].name : "";
  store.version = state.version;
  store.leftOut = state.left_out;
  show();
}

// --- how it is asked: events, else again and again; what does not answer is tried until it does ---
const SILENCE_MS = 5000, POLL_MS = 1000, AGAIN_MS = 2000;
let source = null, timer = 0, heard = 0, lostAt = null;

function say(text, how) {
  const line = byId("line");
  if (line.textContent !== text) line.textContent = text;
  line.className = "pill push " + how;
}

function heardFrom(state, how) {
  heard = performance.now();
  lostAt = null;
  say(how, "good");
  take(state);
}

function stop() {
  if (source) source.close();
  source = null;
  clearTimeout(timer);
}

function listen() {
  stop();
  if (!window.EventSource) return poll();
  heard = performance.now();
  source = new EventSource("events");
  source.addEventListener("state", event => heardFrom(JSON.parse(event.data), "live"));
  source.addEventListener("error", () => { stop(); poll(); });
  watchSilence();
}

function watchSilence() {
  timer = setTimeout(() => {
    if (performance.now() - heard < SILENCE_MS) return watchSilence();
    stop();
    poll();
  }, 1000);
}

// Where there are no events: the same, once a second; events are tried again now and then.
let polls = 0;
async function poll() {
  stop();
  try {
    const answer = await fetch("stats.json" + (store.now && store.id ? "?after=" + store.now : ""),
      { cache: "no-store", signal: AbortSignal.timeout(SILENCE_MS) });
    if (!answer.ok) throw new Error("status " + answer.status);
    heardFrom(await answer.json(), "asking once a second");
    if (document.hidden) return;
    timer = setTimeout(++polls % 10 === 1 ? listen : poll, polls % 10 === 1 ? 200 : POLL_MS);
  } catch (error) {
    lostAt = lostAt || new Date();
    say("no answer since " + lostAt.toLocaleTimeString("en-GB") + "; trying again", "bad");
    if (document.hidden) return;
    timer = setTimeout(poll, AGAIN_MS);
  }
}
]==]
