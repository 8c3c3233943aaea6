"use strict";
/* Wiring: controls, keys, the address. */
const SPEEDS = [0.125, 0.25, 0.5, 1, 2, 4];

function setSpeed(step) {
  const at = SPEEDS.indexOf(view.speed);
  view.speed = SPEEDS[Math.min(SPEEDS.length - 1, Math.max(0, (at < 0 ? 3 : at) + step))];
  byId("speed").value = view.speed;
  keepAddress();
}
function setWipe(on) {
  view.wipe = on;
  byId("wipe").setAttribute("aria-pressed", String(on));
  byId("wipe-at").hidden = !on;
  reopenStages();
  placeWipe(view.at);
}
function placeWipe(percent) {
  view.at = Math.round(Math.min(100, Math.max(0, percent)));
  byId("wipe-at").value = view.at;
  document.documentElement.style.setProperty("--wipe", `${view.at}%`);
  keepAddress();
}
function setLoop(on) {
  view.loop = on;
  byId("loop").setAttribute("aria-pressed", String(on));
  keepAddress();
}
function setSound(on) {
  audible = on && !byId("sound").hidden;
  byId("sound").setAttribute("aria-pressed", String(audible));
  tune();
}
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try { localStorage.setItem("crossframe-theme", theme); } catch { /* forbidden for files; only kept while open */ }
}
function switchTheme() {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
    || (getComputedStyle(document.documentElement).colorScheme !== "light"
      && matchMedia("(prefers-color-scheme: dark)").matches);
  setTheme(dark ? "light" : "dark");
}

const KEYS = {
  " ": () => (clock.playing ? pause() : play()),
  ArrowLeft: () => goTo(currentFrame() - 1),
  ArrowRight: () => goTo(currentFrame() + 1),
  Home: () => goTo(0),
  End: () => goTo(reach.frames - 1),
  "<": () => setSpeed(-1),
  ">": () => setSpeed(1),
  l: () => setLoop(!view.loop),
  w: () => setWipe(!view.wipe),
  s: () => setSound(!audible),
  j: () => chooseBeside(1),
  k: () => chooseBeside(-1),
  d: switchTheme,
  "/": () => byId("filter").focus(),
  "?": () => byId("help").showModal(),
};
const onControl = { " ": "button, summary, a", Home: "input", End: "input" };
function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const target = event.target instanceof Element ? event.target : document.body;
  if (event.key === "Escape" && target.id === "filter") target.blur();
  if (target.closest("select, textarea, input:not([type=range])") || target.id === "wipe-at") return;
  if (onControl[event.key] && target.closest(onControl[event.key])) return;
  const action = KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}
function showView() {
  byId("filter").value = view.q;
  byId("size").value = view.size;
  byId("show").value = view.show;
  byId("speed").value = view.speed;
  setLoop(view.loop);
  byId("sound").hidden = !data.clips.some((clip) => clip.sound);
  Object.keys(sortables).forEach((name) => sortBy(name, view[name]));
  filterTables();
  drawGrid();
  setWipe(view.wipe);
  goTo(Math.max(0, Math.min(view.frame, reach.frames - 1)));
}
const later = (action, wait) => {
  let waiting = 0;
  return () => { clearTimeout(waiting); waiting = setTimeout(action, wait); };
};
function wire() {
  const on = (id, kind, action) => byId(id).addEventListener(kind, (event) => action(event.currentTarget));
  on("play", "click", () => (clock.playing ? pause() : play()));
  on("back", "click", () => goTo(currentFrame() - 1));
  on("forth", "click", () => goTo(currentFrame() + 1));
  on("scrub", "input", (scrub) => goTo(Number(scrub.value)));
  on("speed", "change", (select) => { view.speed = Number(select.value); keepAddress(); });
  on("loop", "click", () => setLoop(!view.loop));
  on("wipe", "click", () => setWipe(!view.wipe));
  on("sound", "click", () => setSound(!audible));
  on("wipe-at", "input", (range) => placeWipe(Number(range.value)));
  on("size", "change", (select) => { view.size = select.value; redraw(); });
  on("show", "change", (select) => { view.show = select.value; redraw(); });
  on("down", "change", (select) => setAxis("down", select.value));
  on("across", "change", (select) => setAxis("across", select.value));
  const refilter = later(() => { filterTables(); redraw(); }, 150);
  on("filter", "input", (input) => { view.q = input.value.trim(); refilter(); });
  on("theme", "click", switchTheme);
  on("keys", "click", () => byId("help").showModal());
  document.querySelectorAll("a.info").forEach((link) => link.addEventListener("click", (event) => {
    event.preventDefault();
    explain(link);
  }));
  document.querySelectorAll("dialog").forEach((dialog) => dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  }));
  document.addEventListener("pointermove", (event) => {
    if (!view.wipe || !(event.target instanceof Element)) return;
    const stage = event.target.closest(".stage.wiped");
    if (!stage) return;
    const box = stage.getBoundingClientRect();
    placeWipe(((event.clientX - box.left) / box.width) * 100);
  });
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", () => readAddress() && showView());
}
function begin() {
  fill(byId("down"), AXES.map((axis) => [axis.name, axis.label]));
  fill(byId("across"), AXES.map((axis) => [axis.name, axis.label]));
  fill(byId("show"), [["all", "all numbers"], ["none", "no numbers"], ...METRICS.map((each) => [each.id, each.id])]);
  makeFixed();
  byId("cells-body").append(...CELLS.map(cellLine));
  Object.keys(sortables).forEach(makeSortable);
  wire();
  const told = readAddress();
  showView();
  if (told && (view.cell || location.hash.includes("down=") || location.hash.includes("across=")))
    byId("watch").scrollIntoView();
  document.documentElement.dataset.ready = String(document.querySelectorAll(".tile").length);
}
begin();
