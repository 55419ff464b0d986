--- The page's script, third part: distributions of latency, and latency against throughput.

return [==[
const CURVES_HEIGHT = 330;

// The share (%) of a curve of steps at x.
function shareAt(curve, x) {
  const i = lastAtOrBefore(curve.x, x);
  return i < 0 ? 0 : curve.y[i];
}

function curvesRange() {
  let from = Infinity, to = 0;
  for (const run of data.runs) {
    if (!run.curve.x.length) continue;
    from = Math.min(from, run.curve.x[0]);
    to = Math.max(to, run.curve.x[run.curve.x.length - 1]);
  }
  if (data.slo) { from = Math.min(from, data.slo); to = Math.max(to, data.slo); }
  return from === Infinity ? [0.1, 10] : [from / 1.5, to * 1.5];
}

function stepPath(g, curve, values, x, y, range) {
  g.moveTo(x(range[0]), y(0));
  let last = 0;
  for (let i = 0; i < curve.x.length; i++) {
    g.lineTo(x(curve.x[i]), y(last));
    g.lineTo(x(curve.x[i]), y(values[i]));
    last = values[i];
  }
  g.lineTo(x(range[1]), y(last));
}

function drawBand(g, curve, x, y, colour) {
  g.fillStyle = colour;
  g.globalAlpha = 0.18;
  for (let i = 0; i + 1 < curve.x.length; i++) {
    g.fillRect(x(curve.x[i]), y(curve.high[i]), x(curve.x[i + 1]) - x(curve.x[i]), y(curve.low[i]) - y(curve.high[i]));
  }
  g.globalAlpha = 1;
}

function drawCurves(state) {
  const [g, width] = begin(byId("curves"), CURVES_HEIGHT);
  const box = { left: LEFT, right: width - RIGHT, top: TOP, bottom: CURVES_HEIGHT - 40 }, range = curvesRange();
  const x = s => box.left + Math.log(s / range[0]) / Math.log(range[1] / range[0]) * (box.right - box.left);
  const y = share => box.bottom - share / 100 * (box.bottom - box.top);
  axis(g, "y", [0, 20, 40, 60, 80, 100], y, box, "share of all arrivals, %");
  axis(g, "x", logTicks(range[0], range[1]), x, box, "latency, seconds");
  if (data.slo) {
    g.strokeStyle = "#888";
    g.setLineDash([5, 4]);
    g.beginPath();
    g.moveTo(x(data.slo), box.top);
    g.lineTo(x(data.slo), box.bottom);
    g.stroke();
    g.setLineDash([]);
    g.fillStyle = "#666";
    g.textAlign = "left";
    g.textBaseline = "bottom";
    g.fillText("slo", x(data.slo) + 4, box.bottom - 4);
  }
  const others = data.runs.map((_, i) => i).filter(i => i !== state.a && i !== state.b);
  for (const i of others.concat(state.b >= 0 ? [state.b] : [], [state.a])) {
    const curve = data.runs[i].curve, isChosen = i === state.a || i === state.b;
    if (curve.low && isChosen) drawBand(g, curve, x, y, colourOf(i));
    g.strokeStyle = colourOf(i);
    g.lineWidth = isChosen ? 2.4 : 1;
    g.globalAlpha = isChosen ? 1 : 0.45;
    g.setLineDash(i === state.b ? [7, 4] : dashOf(i));
    g.beginPath();
    stepPath(g, curve, curve.y, x, y, range);
    g.stroke();
  }
  g.setLineDash([]);
  g.globalAlpha = 1;
  return { box, range };
}

// What the curves read at a latency.
function readCurves(state, drawn, px) {
  const { box, range } = drawn;
  if (px < box.left || px > box.right) return "";
  const at = range[0] * Math.pow(range[1] / range[0], (px - box.left) / (box.right - box.left));
  const lines = ["within " + short(at) + " s:"];
  for (const i of state.b >= 0 ? [state.a, state.b] : [state.a]) {
    lines.push(shareAt(data.runs[i].curve, at).toFixed(1) + " %  " + data.runs[i].label);
  }
  return lines.join("\n");
}

// One mark at a point: circle, square, triangle up or down, diamond, in turn; filled or hollow.
function drawMark(g, kind, px, py, isFilled) {
  const r = 4;
  g.beginPath();
  if (kind % 5 === 0) g.arc(px, py, r, 0, 2 * Math.PI);
  else if (kind % 5 === 1) g.rect(px - r, py - r, 2 * r, 2 * r);
  else if (kind % 5 === 2) { g.moveTo(px, py - r); g.lineTo(px + r, py + r); g.lineTo(px - r, py + r); }
  else if (kind % 5 === 3) { g.moveTo(px, py + r); g.lineTo(px + r, py - r); g.lineTo(px - r, py - r); }
  else { g.moveTo(px, py - r); g.lineTo(px + r, py); g.lineTo(px, py + r); g.lineTo(px - r, py); }
  g.closePath();
  g.fillStyle = isFilled ? g.strokeStyle : "#fff";
  g.fill();
  g.stroke();
}

function drawFrontier() {
  const [g, width] = begin(byId("frontier"), CURVES_HEIGHT);
  const box = { left: LEFT, right: width - RIGHT, top: TOP, bottom: CURVES_HEIGHT - 40 };
  let most = 0, low = Infinity, high = 0;
  for (const line of data.lines) for (const p of line.points) {
    most = Math.max(most, p[0]);
    low = Math.min(low, p[1], p[2]);
    high = Math.max(high, p[1], p[2]);
  }
  if (!(high > 0)) { low = 0.1; high = 10; most = 1; }
  const from = Math.max(1e-6, low) / 1.4, to = high * 1.4;
  const x = v => box.left + v / (1.08 * most) * (box.right - box.left);
  const y = s => box.bottom - Math.log(Math.max(1e-6, s) / from) / Math.log(to / from) * (box.bottom - box.top);
  axis(g, "y", logTicks(from, to), y, box, "latency, seconds: p99 filled, p50 hollow");
  axis(g, "x", ticks(0, 1.08 * most, 6), x, box, "answers a second");
  for (const line of data.lines) {
    g.strokeStyle = colourOf(line.colour - 1);
    g.lineWidth = 1.6;
    g.setLineDash(line.dash > 1 ? [6, 2 + line.dash] : []);
    for (const k of [1, 2]) {
      g.beginPath();
      line.points.forEach((p, i) => i ? g.lineTo(x(p[0]), y(p[k])) : g.moveTo(x(p[0]), y(p[k])));
      g.stroke();
    }
    g.setLineDash([]);
    for (const p of line.points) {
      if (p.length > 3) { // the range over seeds
        for (const k of [3, 5]) {
          g.beginPath();
          g.moveTo(x(p[0]), y(p[k]));
          g.lineTo(x(p[0]), y(p[k + 1]));
          g.stroke();
        }
      }
      drawMark(g, line.mark - 1, x(p[0]), y(p[1]), true);
      drawMark(g, line.mark - 1, x(p[0]), y(p[2]), false);
    }
  }
}
]==]
