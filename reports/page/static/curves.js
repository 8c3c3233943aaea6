"use strict";
/* Per-frame curves: a marker shows where the players are, and the pointer moves them. */
const SVG = "http://www.w3.org/2000/svg";
const draw = (tag, attributes, text = "") => {
  const node = document.createElementNS(SVG, tag);
  Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
  node.textContent = text;
  return node;
};
const PLOT = { left: 50, right: 314, top: 10, bottom: 108, width: 322, height: 128 };
let charts = [];

/* Frame that entry i of a series belongs to: a pair of frames stands between them. */
const frameOfEntry = (i, length, frames) => {
  if (length === frames) return i;
  if (length === frames - 1) return i + 0.5;
  return length > 1 ? (i * (frames - 1)) / (length - 1) : (frames - 1) / 2;
};
function chart(metric, cell, others) {
  const frames = framesOf(cell);
  const drawn = [...others.filter((other) => other !== cell), cell]
    .filter((other) => other.series[metric.id]);
  const numbers = drawn.flatMap((other) => other.series[metric.id]).filter((value) => value != null);
  if (!numbers.length) return null;
  const low = Math.min(...numbers), high = Math.max(...numbers), span = high - low || Math.abs(high) || 1;
  const x = (frame) => PLOT.left + ((frame + 0.5) / frames) * (PLOT.right - PLOT.left);
  const y = (value) => PLOT.bottom - ((value - low) / span) * (PLOT.bottom - PLOT.top);
  const svg = draw("svg", { viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, role: "img" });
  svg.setAttribute("aria-label",
    `${metric.id} per frame on ${cell.clip.id}, ${plural(drawn.length, "row")}, from ${low} to ${high}`);
  for (const value of high > low ? [low, (low + high) / 2, high] : [low]) {
    svg.append(draw("line", { class: "rule", x1: PLOT.left, x2: PLOT.right, y1: y(value), y2: y(value) }),
      draw("text", { x: PLOT.left - 5, y: y(value) + 3.5, "text-anchor": "end" },
        show(value, Math.min(metric.decimals, 4))));
  }
  const step = Math.max(1, Math.ceil(frames / 8));
  for (let frame = 0; frame < frames; frame += step)
    svg.append(draw("text", { x: x(frame), y: PLOT.height - 5, "text-anchor": "middle" }, String(frame)));
  const marker = draw("line", { class: "marker", y1: PLOT.top - 6, y2: PLOT.bottom + 6 });
  svg.append(marker);
  for (const other of drawn) {
    const series = other.series[metric.id];
    const places = series.map((value, i) => [x(frameOfEntry(i, series.length, frames)), value])
      .filter(([, value]) => value != null).map(([at, value]) => [at, y(value)]);
    const line = draw("polyline", { class: other === cell ? "series own" : "series",
      points: places.map(([at, height]) => `${at.toFixed(1)},${height.toFixed(1)}`).join(" ") });
    svg.append(coloured(line, other.row.colour));
    if (other === cell) places.forEach(([at, height]) => svg.append(
      coloured(draw("circle", { class: "dot", cx: at, cy: height, r: 2.4 }), cell.row.colour)));
  }
  const reading = make("span", { className: "reading" });
  svg.addEventListener("pointermove", (event) => scrubBy(event, svg, frames));
  svg.addEventListener("pointerdown", (event) => scrubBy(event, svg, frames, true));
  charts.push({ marker, x, frames, reading, metric, cell });
  const head = make("div", { className: "chart-head" }, make("h4", {}, metric.id, " ",
    make("span", { className: "arrow", textContent: metric.arrow })), reading);
  return make("div", { className: "chart" }, head, svg);
}
/* While videos play, only a pressed pointer moves them; when they stand, hovering is enough. */
function scrubBy(event, svg, frames, pressed = event.buttons > 0) {
  if (clock.playing && !pressed) return;
  const box = svg.getBoundingClientRect();
  const at = ((event.clientX - box.left) / box.width) * PLOT.width;
  const place = Math.floor(((at - PLOT.left) / (PLOT.right - PLOT.left)) * frames);
  if (place < 0 || place >= frames) return;
  if (clock.playing || place !== currentFrame()) goTo(place);
}
function moveMarkers(place) {
  for (const { marker, x, frames } of charts) {
    const at = x(Math.min(place, frames - 0.5) - 0.5).toFixed(1);
    marker.setAttribute("x1", at);
    marker.setAttribute("x2", at);
  }
}
function showReadings(frame) {
  for (const { reading, metric, cell, frames } of charts) {
    const series = cell.series[metric.id];
    const values = series ? series.map((value, i) => [frameOfEntry(i, series.length, frames), value]) : [];
    const near = values.find(([at]) => Math.abs(at - frame - 0.25) < 0.6);
    const mean = `mean ${show(cell.values[metric.id], metric.decimals)}`;
    if (!near || near[1] == null) reading.textContent = mean;
    else {
      const place = Number.isInteger(near[0]) ? String(near[0]) : `${near[0] - 0.5}–${near[0] + 0.5}`;
      reading.textContent = `${place}: ${show(near[1], metric.decimals)}, ${mean}`;
    }
  }
}
function drawCharts(cell) {
  charts = [];
  const others = neighbours(cell);
  const found = METRICS.map((metric) => chart(metric, cell, others)).filter(Boolean);
  return { box: make("div", { className: "charts" }, ...found), others };
}
