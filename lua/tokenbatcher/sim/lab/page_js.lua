--- The page's script, last part: what is chosen, and what the reader does.

return [==[
const state = { a: 0, b: data.runs.length > 1 ? 1 : -1, from: 0, to: 1 };
let hovered = { side: "", batch: -1 }, drag = null, drawn = null;

const hasTimeline = i => i >= 0 && data.runs[i].batches;
const shown = () => [state.a, state.b].filter(hasTimeline);
const runOf = side => data.runs[state[side]];

// All of time in the runs shown.
function wholeView() {
  const runs = shown().map(i => data.runs[i]);
  return runs.length ? [Math.min(...runs.map(r => r.from)), Math.max(...runs.map(r => r.to))] : [0, 1];
}

function zoomTo(from, to) {
  const [first, last] = wholeView(), least = (last - first) * 1e-6;
  state.from = Math.max(first, Math.min(from, last - least));
  state.to = Math.min(last, Math.max(to, state.from + least));
  update();
}

function zoomBy(factor, at) {
  const centre = at === undefined ? (state.from + state.to) / 2 : at;
  zoomTo(centre - (centre - state.from) * factor, centre + (state.to - centre) * factor);
}

function panBy(share) {
  const [first, last] = wholeView(), width = state.to - state.from;
  const from = Math.max(first, Math.min(state.from + share * width, last - width));
  zoomTo(from, from + width);
}

// The same scales above and below, so that two runs compare.
function scales() {
  let depth = 1, size = 1;
  for (const i of shown()) {
    depth = Math.max(depth, data.runs[i].depth_most);
    size = Math.max(size, data.runs[i].size_most);
  }
  return { depth, size };
}

function drawTimeline(side) {
  const figure = byId("figure-" + side), index = state[side];
  figure.hidden = !hasTimeline(index);
  if (figure.hidden) return;
  const run = data.runs[index], { depth, size } = scales();
  figure.querySelector("figcaption").textContent = side.toUpperCase() + ": " + run.label;
  const canvas = figure.querySelector("canvas"), [g, width] = begin(canvas, HEIGHT), box = boxes(width);
  drawQueue(g, box.queue, run, state, depth);
  drawBatches(g, box.batches, run, state, size, hovered.side === side ? hovered.batch : -1);
  if (drag && drag.side === side) {
    g.fillStyle = "#0072b233";
    g.fillRect(Math.min(drag.from, drag.to), TOP, Math.abs(drag.to - drag.from), HEIGHT - TOP - 38);
  }
}

function fillComparison() {
  const body = byId("comparison"), a = data.runs[state.a], b = state.b >= 0 ? data.runs[state.b] : null;
  body.textContent = "";
  data.figures.forEach((figure, k) => {
    const row = body.insertRow(), cells = [figure.name, a.texts[k], b ? b.texts[k] : ""];
    const one = a.values[k], other = b ? b.values[k] : null;
    if (b && one !== null && other !== null) {
      cells.push(short(other - one), one ? short(100 * (other / one - 1)) + " %" : "-");
    } else {
      cells.push("", "");
    }
    cells.forEach(text => { row.insertCell().textContent = text; });
    if (b && figure.better && one !== null && other !== null && one !== other) {
      row.cells[3].className = row.cells[4].className = (other - one) * figure.better > 0 ? "better" : "worse";
    }
  });
}

function fillKeys() {
  document.querySelectorAll("#keys button").forEach((button, i) => {
    button.className = i === state.a || i === state.b ? "chosen" : "";
    button.lastChild.textContent = data.runs[i].label + (i === state.a ? " (A)" : i === state.b ? " (B)" : "");
  });
}

function update() {
  byId("run-a").value = state.a;
  byId("run-b").value = state.b;
  byId("span").textContent = shown().length ? short(state.from) + " to " + short(state.to) + " s" : "";
  drawTimeline("a");
  drawTimeline("b");
  drawn = drawCurves(state);
  fillComparison();
  fillKeys();
  history.replaceState(null, "", "#a=" + state.a + "&b=" + state.b + "&from=" + state.from + "&to=" + state.to);
}

function choose(side, index) {
  const whole = wholeView(), wasWhole = state.from <= whole[0] && state.to >= whole[1];
  state[side] = index;
  hovered.batch = -1;
  if (state.a === state.b) state.b = -1;
  if (wasWhole) [state.from, state.to] = wholeView();
  zoomTo(state.from, state.to);
}

// --- what the reader does --------------------------------------------------------------

function watchTimeline(side) {
  const canvas = byId("figure-" + side).querySelector("canvas");
  const timeAt = event => {
    const box = boxes(canvas.clientWidth).batches;
    return state.from + (event.offsetX - box.left) / (box.right - box.left) * (state.to - state.from);
  };
  canvas.addEventListener("mousemove", event => {
    if (drag) return;
    const run = runOf(side), at = batchAt(run, boxes(canvas.clientWidth).batches, state, event.offsetX, event.offsetY);
    if (hovered.side !== side || hovered.batch !== at) { hovered = { side, batch: at }; drawTimeline(side); }
    showTip(event, at >= 0 ? aboutBatch(run, at) : "");
  });
  canvas.addEventListener("mouseleave", event => {
    hovered.batch = -1;
    showTip(event, "");
    drawTimeline(side);
  });
  canvas.addEventListener("mousedown", event => {
    drag = { side, from: event.offsetX, to: event.offsetX, time: timeAt(event), canvas };
    showTip(event, "");
  });
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    zoomBy(Math.pow(1.2, event.deltaY > 0 ? 1 : -1), timeAt(event));
  }, { passive: false });
  canvas.addEventListener("dblclick", () => zoomTo(...wholeView()));
  canvas.addEventListener("keydown", event => {
    const act = {
      ArrowLeft: () => panBy(-0.2), ArrowRight: () => panBy(0.2), "+": () => zoomBy(0.6), "-": () => zoomBy(1 / 0.6),
      "0": () => zoomTo(...wholeView()),
    }[event.key];
    if (act) { event.preventDefault(); act(); }
  });
  return timeAt;
}

function watchDrag() {
  window.addEventListener("mousemove", event => {
    if (!drag) return;
    drag.to = event.clientX - drag.canvas.getBoundingClientRect().left;
    drawTimeline(drag.side);
  });
  window.addEventListener("mouseup", () => {
    if (!drag) return;
    const { from, to, canvas } = drag, box = boxes(canvas.clientWidth).batches, width = state.to - state.from;
    const inside = px => Math.min(box.right, Math.max(box.left, px)) - box.left;
    const time = px => state.from + inside(px) / (box.right - box.left) * width;
    drag = null;
    if (Math.abs(to - from) > 4) zoomTo(time(Math.min(from, to)), time(Math.max(from, to))); else update();
  });
}

function fillChoices() {
  data.runs.forEach((run, i) => {
    byId("run-a").add(new Option(run.label, i));
    byId("run-b").add(new Option(run.label, i));
    const item = document.createElement("li"), button = document.createElement("button");
    const swatch = document.createElement("i");
    swatch.style.background = fillOf(i);
    button.append(swatch, "");
    button.title = "click: run A; with shift: run B";
    button.addEventListener("click", event => choose(event.shiftKey ? "b" : "a", i));
    item.append(button);
    byId("keys").append(item);
  });
  byId("run-b").add(new Option("no other", -1), 0);
  byId("run-a").addEventListener("change", event => choose("a", Number(event.target.value)));
  byId("run-b").addEventListener("change", event => choose("b", Number(event.target.value)));
  byId("swap").addEventListener("click", () => {
    if (state.b < 0) return;
    [state.a, state.b] = [state.b, state.a];
    update();
  });
  byId("closer").addEventListener("click", () => zoomBy(0.5));
  byId("wider").addEventListener("click", () => zoomBy(2));
  byId("all").addEventListener("click", () => zoomTo(...wholeView()));
  data.lines.forEach(line => {
    const item = document.createElement("li"), swatch = document.createElement("i");
    swatch.style.background = fillOf(line.colour - 1);
    item.append(swatch, line.label);
    byId("lines").append(item);
  });
}

// What a link to this page says.
function fromLink() {
  const said = new URLSearchParams(location.hash.slice(1));
  const whole = text => /^-?\d+$/.test(text || "") ? Number(text) : NaN;
  const a = whole(said.get("a")), b = whole(said.get("b"));
  const from = parseFloat(said.get("from")), to = parseFloat(said.get("to"));
  if (a >= 0 && a < data.runs.length) state.a = a;
  if (b >= -1 && b < data.runs.length) state.b = b;
  if (state.a === state.b) state.b = -1;
  [state.from, state.to] = from < to ? [from, to] : wholeView();
}

function startPage() {
  fillChoices();
  fromLink();
  watchTimeline("a");
  watchTimeline("b");
  watchDrag();
  byId("curves").addEventListener("mousemove", event => showTip(event, readCurves(state, drawn, event.offsetX)));
  byId("curves").addEventListener("mouseleave", event => showTip(event, ""));
  window.addEventListener("resize", () => { update(); drawFrontier(); });
  window.addEventListener("hashchange", () => { fromLink(); zoomTo(state.from, state.to); });
  zoomTo(state.from, state.to);
  drawFrontier();
  document.body.dataset.ready = "yes";
}
startPage();
]==]
