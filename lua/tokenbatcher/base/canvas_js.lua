--- For the scripts of pages: canvases, axes, numbers, what is shown beside the pointer. A page has an element `tip`.

return [==[
"use strict";
const byId = id => document.getElementById(id);

// The colours of axes: a page may change them.
const INK = { text: "#444", grid: "#e6e6e6", line: "#888" };

// Up to four digits of a number.
function short(value) {
  if (value === null || value === undefined) return "-";
  const size = Math.abs(value);
  if (size >= 1000 || Number.isInteger(value)) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(4)));
}

// Make a canvas as sharp as the screen; its size in CSS pixels.
function begin(canvas, height) {
  const width = canvas.clientWidth || 1100, ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.height = height + "px";
  const g = canvas.getContext("2d");
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, width, height);
  g.font = "12px system-ui, sans-serif";
  return [g, width];
}

// Round numbers between two bounds, about `most` of them.
function ticks(from, to, most) {
  const raw = (to - from) / most, power = Math.pow(10, Math.floor(Math.log10(raw)));
  const step = [1, 2, 5, 10].map(k => k * power).find(s => s >= raw) || 10 * power;
  const out = [];
  for (let k = Math.ceil(from / step); k * step <= to + step * 1e-9; k++) out.push(Number((k * step).toPrecision(12)));
  return out;
}

// An axis with its labels. side: "x" (below) or "y" (left); place: value -> pixel.
function axis(g, side, values, place, box, title) {
  g.fillStyle = INK.text;
  g.strokeStyle = INK.grid;
  g.lineWidth = 1;
  for (const value of values) {
    const at = Math.round(place(value)) + 0.5;
    g.beginPath();
    if (side === "x") { g.moveTo(at, box.top); g.lineTo(at, box.bottom); }
    else { g.moveTo(box.left, at); g.lineTo(box.right, at); }
    g.stroke();
    g.textAlign = side === "x" ? "center" : "right";
    g.textBaseline = side === "x" ? "top" : "middle";
    if (side === "x") g.fillText(short(value), at, box.bottom + 5); else g.fillText(short(value), box.left - 6, at);
  }
  g.strokeStyle = INK.line;
  g.beginPath();
  if (side === "x") { g.moveTo(box.left, box.bottom + 0.5); g.lineTo(box.right, box.bottom + 0.5); }
  else { g.moveTo(box.left + 0.5, box.top); g.lineTo(box.left + 0.5, box.bottom); }
  g.stroke();
  if (side === "x") { g.textAlign = "right"; g.fillText(title, box.right, box.bottom + 19); }
  else { g.textAlign = "left"; g.textBaseline = "bottom"; g.fillText(title, box.left - 44, box.top - 4); }
}

function showTip(event, text) {
  const tip = byId("tip");
  tip.textContent = text;
  tip.style.display = text ? "block" : "none";
  if (!text) return;
  const right = event.clientX > window.innerWidth - 320;
  tip.style.left = right ? "auto" : event.clientX + 14 + "px";
  tip.style.right = right ? window.innerWidth - event.clientX + 14 + "px" : "auto";
  tip.style.top = event.clientY + 16 + "px";
}
]==]
