"use strict";
/* What is looked at. The address holds it, so that a link leads another person to the same view. */
const DEFAULTS = {
  down: "clip", across: "row", fix: {}, q: "", cell: "", frame: 0, main: "", cells: "", size: "m",
  show: METRICS.length > 3 ? METRICS[0].id : "all", wipe: false, at: 50, loop: true, speed: 1,
};
const view = { ...DEFAULTS, fix: {} };

const CHOICES = {
  size: (text) => ["s", "m", "l", "n"].includes(text),
  show: (text) => ["all", "none"].includes(text) || METRICS.some((metric) => metric.id === text),
  main: (text) => /^\d+[ad]$/.test(text),
  cells: (text) => /^\d+[ad]$/.test(text),
  down: (text) => Boolean(axisNamed(text)),
  across: (text) => Boolean(axisNamed(text)),
};
const READ = {
  boolean: (text) => text === "1",
  number: (text) => (Number.isFinite(Number(text)) ? Number(text) : 0),
  string: (text) => text,
};
const WRITE = { boolean: (value) => (value ? "1" : "0"), number: String, string: String };

function addressOfView() {
  const words = new URLSearchParams();
  for (const [name, usual] of Object.entries(DEFAULTS)) {
    if (name === "fix") continue;
    if (view[name] !== usual) words.set(name, WRITE[typeof usual](view[name]));
  }
  for (const [name, value] of Object.entries(view.fix)) words.set(`fix.${name}`, value);
  return words.toString();
}
/* Returns whether the address held a view; an address such as #results is left to the browser. */
function readAddress() {
  const text = location.hash.slice(1);
  if (!text.includes("=")) return false;
  const words = new URLSearchParams(text);
  for (const [name, usual] of Object.entries(DEFAULTS)) {
    if (name === "fix") continue;
    const word = words.get(name);
    const allowed = word !== null && (CHOICES[name]?.(word) ?? true);
    view[name] = allowed ? READ[typeof usual](word) : usual;
  }
  view.fix = {};
  for (const axis of AXES) {
    const value = words.get(`fix.${axis.name}`);
    if (axis.values.includes(value)) view.fix[axis.name] = value;
  }
  return true;
}
let writing = 0;
function keepAddress() {
  clearTimeout(writing);
  writing = setTimeout(() => {
    const words = addressOfView();
    if (words === location.hash.slice(1)) return;
    if (!words && !location.hash.includes("=")) return;
    history.replaceState(null, "", words ? `#${words}` : location.pathname + location.search);
  }, 150);
}
