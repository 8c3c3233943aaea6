"use strict";
/* The run as data: cells with their rows and clips, axes to lay them out by, words to filter them. */
const data = JSON.parse(document.getElementById("data").textContent);

const byId = (id) => document.getElementById(id);
const make = (tag, props = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
};
const coloured = (node, colour) => {
  node.classList.add("coloured");
  node.style.setProperty("--c", colour);
  return node;
};
const swatch = (row) => coloured(make("span", { className: "swatch" }), row.colour);
/* A label that may break after its joints, and before a bracket. */
const breakable = (text) => text.split(/(?<=[+,/_])|(?=\[)/).flatMap((part, i) => (i ? [make("wbr"), part] : [part]));
/* A number with fixed decimals, never a negative zero. */
const show = (value, decimals) => (value == null ? "–" : value.toFixed(decimals).replace(/^-(?=[0.]+$)/, ""));
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

const METRICS = data.metrics;
/* What stands under a small video: the id after its slash, where no other metric ends alike. */
const tailOf = (id) => id.split("/").pop();
const shortId = (metric) => (METRICS.some((other) => other !== metric && tailOf(other.id) === tailOf(metric.id))
  ? metric.id : tailOf(metric.id));
const ROWS = data.rows;
const CELLS = data.cells.map((cell, order) => ({
  values: {}, series: {}, unavailable: {}, cost: {}, axes: {}, reason: "", ...cell,
  order, row: ROWS[cell.row], clip: data.clips[cell.clip], prompt: data.prompts[cell.prompt],
}));
const sourceRow = ROWS[0];

/* The clips themselves stand in for the source where the run has no such row. */
const SHOWN = sourceRow.onlyClips
  ? [...data.clips.filter((clip) => clip.folder).map((clip, i) => ({
      values: {}, series: {}, unavailable: {}, cost: {}, axes: {}, reason: "", key: `clip-${i}`,
      order: -1, seed: 0, state: "done", row: sourceRow, clip, prompt: clip.caption, onlyClip: true,
      folder: clip.folder, frames: clip.frames, video: clip.video,
    })), ...CELLS]
  : CELLS;

const seedsOf = new Map(ROWS.map((row) =>
  [row, new Set(CELLS.filter((cell) => cell.row === row).map((cell) => cell.seed)).size]));
const promptsOf = new Map(data.clips.map((clip) =>
  [clip, [...new Set(CELLS.filter((cell) => cell.clip === clip && !cell.row.sentinel)
    .map((cell) => cell.prompt))]]));
const mostPrompts = Math.max(1, ...[...promptsOf.values()].map((prompts) => prompts.length));

/* An axis: its values as texts, and the value of a cell, null where the cell does not depend on it. */
const promptPlace = (cell) => {
  const place = promptsOf.get(cell.clip).indexOf(cell.prompt);
  return place < 0 ? null : String(place + 1);
};
const AXES = [
  { name: "row", label: "row", config: true, values: ROWS.map((row) => row.label), of: (cell) => cell.row.label },
  ...data.axes.filter((axis) => axis.values.length > 1).map((axis) => ({
    name: `axis:${axis.path}`, label: axis.path, config: true, spec: true, values: axis.values,
    of: (cell) => cell.axes[axis.path] ?? null,
  })),
  { name: "clip", label: "clip", values: data.clips.map((clip) => clip.id), of: (cell) => cell.clip.id },
  { name: "seed", label: "seed", values: data.seeds.map(String),
    of: (cell) => (cell.onlyClip || (cell.row.sentinel && seedsOf.get(cell.row) === 1) ? null : String(cell.seed)) },
  ...(mostPrompts > 1 ? [{ name: "prompt", label: "prompt",
    values: [...Array(mostPrompts)].map((_, i) => String(i + 1)), of: promptPlace }] : []),
];
const axisNamed = (name) => AXES.find((axis) => axis.name === name);

/* Words of the filter: plain words, or a comparison with a metric or an axis: warp<0.05 alpha=0.5 */
const COMPARE = {
  "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b,
  "=": (a, b) => a === b,
};
function parseFilter(text) {
  return text.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
    const parts = word.match(/^([^<>=]+)(<=|>=|=|<|>)(.+)$/);
    if (!parts) return { word };
    const number = Number(parts[3]);
    return { word, field: parts[1], sign: parts[2], value: isNaN(number) ? parts[3] : number };
  });
}
function passes(filter, text, fields) {
  return filter.every(({ word, field, sign, value }) => {
    if (field === undefined) return text.includes(word);
    return Object.entries(fields).some(([name, own]) => {
      if (own == null || !name.toLowerCase().includes(field)) return false;
      const same = typeof value === "number" && own !== "" && !isNaN(own);
      return COMPARE[sign](same ? Number(own) : String(own).toLowerCase(), same ? value : String(value));
    });
  });
}
const fieldsOfCell = (cell) => ({
  ...cell.axes, ...cell.values, seed: cell.seed, clip: cell.clip.id, state: cell.state, row: cell.row.label,
});
const textOfCell = (cell) => [cell.row.label, cell.clip.id, `seed ${cell.seed}`, cell.state, cell.prompt,
  cell.reason, ...Object.values(cell.axes)].join(" ").toLowerCase();
const keeps = (filter, cell) => !filter.length || passes(filter, textOfCell(cell), fieldsOfCell(cell));

/* Other rows on the same clip, prompt and seed: what a cell is compared with. */
function neighbours(cell) {
  return SHOWN.filter((other) => other.clip === cell.clip
    && ["seed", "prompt"].every((name) => {
      const axis = axisNamed(name);
      const [a, b] = axis ? [axis.of(cell), axis.of(other)] : [null, null];
      return a === null || b === null || a === b;
    }));
}
const sourceOf = (cell) => SHOWN.find((other) => other.row === sourceRow && other.clip === cell.clip);
