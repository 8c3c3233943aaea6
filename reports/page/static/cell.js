"use strict";
/* The chosen cell: its video against the source, its curves, and how it was made. */
let chosen = null;

const nameOf = (cell) => (cell.onlyClip ? `${cell.row.label} · ${cell.clip.id}`
  : `${cell.row.label} · ${cell.clip.id} · seed ${cell.seed}`);
function pairs(entries) {
  const list = make("dl", { className: "pairs" });
  entries.forEach(([name, value]) => list.append(
    make("dt", { textContent: name }), make("dd", { textContent: value })));
  return list;
}
const flat = (value, prefix = "") => (value !== null && typeof value === "object" && !Array.isArray(value)
  ? Object.entries(value).flatMap(([name, inner]) => flat(inner, prefix ? `${prefix}.${name}` : name))
  : [[prefix, typeof value === "string" ? value : JSON.stringify(value)]]);
function folded(title, ...children) {
  return make("details", {}, make("summary", { textContent: title }), ...children);
}
const COSTS = {
  seconds: (value) => ["drawing", `${value.toFixed(1)} s`],
  seconds_per_frame: (value) => ["per frame", `${value.toFixed(2)} s`],
  scoring_seconds: (value) => ["scoring", `${value.toFixed(1)} s`],
  peak_memory_bytes: (value) => ["peak memory", `${(value / 2 ** 30).toFixed(2)} GiB`],
};
const costsOf = (cell) => Object.entries(cell.cost).filter(([, value]) => value != null).map(([name, value]) =>
  (typeof value === "number" && COSTS[name] ? COSTS[name](value) : [name.replaceAll("_", " "), String(value)]));

function factsOf(cell) {
  const facts = [["state", cell.state]];
  if (cell.prompt) facts.push(["prompt", cell.prompt]);
  if (cell.clip.caption) facts.push(["source", cell.clip.caption]);
  facts.push(...Object.entries(cell.axes));
  METRICS.forEach((metric) => {
    if (cell.values[metric.id] != null)
      facts.push([`${metric.id} ${metric.arrow}`.trim(), show(cell.values[metric.id], metric.decimals)]);
  });
  Object.entries(cell.unavailable).forEach(([name, why]) => facts.push([name, `unavailable: ${why}`]));
  facts.push(...costsOf(cell));
  if (cell.noise) facts.push(["noise seed", cell.noise]);
  return facts;
}
function failureOf(cell) {
  const box = make("div", { className: "failure" }, make("p", {}, make("strong", { textContent: cell.reason })));
  if (cell.log) box.append(make("p", {}, make("a", { href: `${cell.folder}/log.txt`, textContent: "log.txt" })));
  if (cell.traceback) box.append(folded("Traceback", make("pre", { textContent: cell.traceback })));
  return box;
}
function legend(cell, others) {
  const box = make("div", { className: "legend" });
  for (const other of others) {
    if (!Object.keys(other.series).length) continue;
    const button = make("button", { type: "button" }, swatch(other.row), other.row.label);
    button.setAttribute("aria-pressed", String(other === cell));
    button.addEventListener("click", () => choose(other));
    box.append(button);
  }
  return box;
}
function recordOf(cell) {
  const parts = [pairs(factsOf(cell))];
  if (cell.onlyClip) return parts;
  if (cell.state === "done") {
    parts.push(
      folded("Resolved configuration",
        make("pre", { textContent: JSON.stringify(data.configs[cell.config], null, 2) })),
      folded("Provenance", pairs(flat(data.provenances[cell.provenance]).filter(([name]) => name))));
  }
  parts.push(make("p", { className: "note" }, "Key ", make("code", { textContent: cell.key }), ", in ",
    make("code", { textContent: decodeURIComponent(cell.folder.replace("../", "")) }), "."));
  return parts;
}
function drawCell() {
  const panel = byId("cell");
  const cell = chosen;
  dropStages(panel);
  charts = [];
  panel.hidden = !cell;
  if (!cell) return;
  const title = make("h3", {}, swatch(cell.row), nameOf(cell));
  const parts = [title];
  if (cell.state === "done") parts.push(makeStage(cell));
  else if (cell.state === "failed") parts.push(failureOf(cell));
  else parts.push(absent(`${cell.state}: ${cell.reason}`));
  const { box, others } = drawCharts(cell);
  if (box.children.length) parts.push(box, legend(cell, others));
  panel.replaceChildren(...parts, ...recordOf(cell));
  lastFrame = -1;
  showTime();
}
function choose(cell, options = {}) {
  chosen = cell ?? null;
  const key = chosen ? chosen.key : "";
  document.querySelectorAll(".tile").forEach((tile) => {
    const own = Boolean(key) && tile.dataset.key === key;
    tile.classList.toggle("chosen", own);
    tile.querySelector("button")?.setAttribute("aria-pressed", String(own));
  });
  byId("prompt").textContent = chosen ? sentenceOf(chosen) : "";
  drawCell();
  if (options.keep !== false) {
    view.cell = key.slice(0, 16);
    keepAddress();
  }
  if (options.reveal && matchMedia("(max-width: 1099px)").matches)
    byId("cell").scrollIntoView({ block: "nearest" });
}
function sentenceOf(cell) {
  const caption = cell.clip.caption ? `Source: “${cell.clip.caption}”` : "";
  return [caption, cell.prompt && !cell.onlyClip ? `Prompt: “${cell.prompt}”` : ""].filter(Boolean).join("  →  ");
}
/* The tile after or before the chosen one, in the order of the grid. */
function chooseBeside(step) {
  const tiles = [...document.querySelectorAll(".tile[data-key]")];
  if (!tiles.length) return;
  const at = tiles.findIndex((tile) => chosen && tile.dataset.key === chosen.key);
  const tile = tiles[at < 0 ? 0 : (at + step + tiles.length) % tiles.length];
  choose(SHOWN.find((cell) => cell.key === tile.dataset.key));
  tile.scrollIntoView({ block: "nearest", inline: "nearest" });
}
