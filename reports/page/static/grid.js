"use strict";
/* The grid of players by any two axes. */
const OWN = "\u0001"; /* marks a line that is a row without a value on the axis: a sentinel, a baseline */

/* Axes that are neither down nor across but still tell cells apart. */
function fixedAxes() {
  const laid = [axisNamed(view.down), axisNamed(view.across)];
  const byRow = laid.some((axis) => axis.name === "row");
  const bySpec = laid.some((axis) => axis.spec);
  return AXES.filter((axis) => !laid.includes(axis)
    && !(byRow && axis.spec) && !(bySpec ? axis.name === "row" : axis.spec));
}
function fixedValue(axis, cells) {
  const value = view.fix[axis.name];
  if (value !== undefined) return value;
  const done = cells.find((cell) => cell.state === "done" && !cell.row.sentinel && axis.of(cell) !== null);
  return done ? axis.of(done) : axis.values[0];
}
const fits = (cell, axis, value) => {
  const own = axis.of(cell);
  if (value.startsWith(OWN)) return own === null && OWN + cell.row.label === value;
  return own === null ? !axis.config : own === value;
};
/* Values of an axis, and after them the rows that have none; those stand beside every value of
   the other axis when that one is of the spec too. */
function valuesOf(axis, cells) {
  const known = axis.values.filter((value) => cells.some((cell) => axis.of(cell) === value));
  if (!axis.config || !cells.some((cell) => axis.of(cell) === null)) return known;
  const without = ROWS.filter((row) => cells.some((cell) => cell.row === row && axis.of(cell) === null));
  return [...known, ...without.map((row) => OWN + row.label)];
}
function layout() {
  const [down, across] = [axisNamed(view.down), axisNamed(view.across)];
  const fixed = fixedAxes().map((axis) => [axis, fixedValue(axis, SHOWN)]);
  const filter = parseFilter(view.q);
  const cells = SHOWN.filter((cell) => keeps(filter, cell)
    && fixed.every(([axis, value]) => {
      const own = axis.of(cell);
      return own === null || own === value;
    }));
  const both = down.config && across.config;
  const columns = both
    ? across.values.filter((value) => cells.some((cell) => across.of(cell) === value))
    : valuesOf(across, cells);
  const lines = valuesOf(down, cells).map((value) => ({
    value,
    tiles: (columns.length ? columns : [null]).map((column) => cells.filter((cell) => fits(cell, down, value)
      && (column === null || (both && across.of(cell) === null) || fits(cell, across, column)))),
  }));
  return { down, across, columns, lines, fixed, cells };
}
const shownValue = (axis, value) => {
  if (value === null) return "";
  if (value.startsWith(OWN)) return value.slice(1);
  return axis.name === "row" || axis.name === "clip" ? value : `${axis.label} ${value}`;
};
function numbersOf(cell) {
  const list = make("div", { className: "numbers" });
  METRICS.filter((metric) => view.show === "all" || view.show === metric.id).forEach((metric) => list.append(
    make("span", { textContent: shortId(metric), title: `${metric.id} ${metric.arrow}`.trim() }),
    make("span", { textContent: show(cell.values[metric.id], metric.decimals) })));
  return list;
}
function tileOf(cells, column, laid) {
  const cell = cells[0];
  const label = shownValue(laid.across, column) || (cell ? cell.row.label : "");
  const tile = make("figure", { className: "tile" });
  tile.setAttribute("role", "listitem");
  if (!cell) {
    tile.append(absent("not planned"), make("figcaption", { className: "soft", textContent: label }));
    return tile;
  }
  tile.dataset.key = cell.key;
  const done = cell.state === "done";
  const stage = done ? makeStage(cell) : absent(`${cell.state}: ${cell.reason}`);
  stage.addEventListener("click", () => choose(cell));
  const button = make("button", { type: "button", title: "details of this cell" }, swatch(cell.row),
    make("span", {}, ...breakable(label)));
  button.addEventListener("click", () => choose(cell, { reveal: true }));
  if (view.size !== "n") tile.append(stage);
  tile.append(button);
  if (done && view.show !== "none" && !cell.onlyClip) tile.append(numbersOf(cell));
  if (cells.length > 1) tile.append(make("div", { className: "numbers", textContent: `first of ${cells.length} cells here` }));
  return tile;
}
function lineOf(line, laid) {
  const name = shownValue(laid.down, line.value);
  const solo = make("button", { type: "button", className: "solo", textContent: "▶", title: "play this line only" });
  solo.setAttribute("aria-label", `play the line ${name}`);
  solo.setAttribute("aria-pressed", "false");
  const box = make("section", { className: "line" });
  solo.addEventListener("click", () => (clock.playing && clock.line === box ? pause() : play(box)));
  const head = make("h3", { className: "line-head" }, solo, make("span", { textContent: name }));
  const tiles = make("div", { className: "tiles" });
  tiles.setAttribute("role", "list");
  tiles.append(...line.tiles.map((cells, i) => tileOf(cells, laid.columns[i] ?? null, laid)));
  box.setAttribute("aria-label", name);
  box.append(head, tiles);
  return box;
}
function drawGrid() {
  pause();
  const grid = byId("grid");
  dropStages(grid);
  const laid = layout();
  grid.style.setProperty("--columns", Math.max(1, laid.columns.length));
  grid.dataset.size = view.size;
  grid.replaceChildren(...laid.lines.map((line) => lineOf(line, laid)));
  if (!laid.lines.length) grid.append(absent(view.q ? "No cell has these words." : "No cell is planned here."));
  const tiles = laid.lines.reduce((sum, line) => sum + line.tiles.filter((cells) => cells.length).length, 0);
  byId("shown").textContent = `${plural(tiles, "cell")} in ${plural(laid.lines.length, "line")}`;
  showFixed(laid.fixed);
  setReach(laid.cells.filter((cell) => cell.state === "done"));
  const wanted = view.cell && SHOWN.find((cell) => cell.key.startsWith(view.cell));
  const first = laid.lines.flatMap((line) => line.tiles.map((cells) => cells[0]))
    .find((cell) => cell && cell.state === "done" && !cell.row.sentinel);
  choose(wanted || first || laid.cells[0], { keep: false });
}

/* Choices above the grid: the two axes, and one value of every other. */
function showFixed(fixed) {
  for (const axis of AXES) {
    const own = fixed.find(([other]) => other === axis);
    const label = byId(`fixed-${AXES.indexOf(axis)}`);
    label.hidden = !own;
    if (own) label.querySelector("select").value = own[1];
  }
  byId("down").value = view.down;
  byId("across").value = view.across;
}
function fill(select, entries) {
  select.append(...entries.map(([value, text]) => make("option", { value, textContent: text })));
}
function makeFixed() {
  const ids = { clip: "clip", seed: "seed" };
  AXES.forEach((axis, i) => {
    const select = make("select", { id: ids[axis.name] ?? `pick-${i}` });
    fill(select, axis.values.map((value) => [value, value]));
    select.addEventListener("change", () => {
      view.fix[axis.name] = select.value;
      view.cell = "";
      redraw();
    });
    byId("fixed").append(make("label", { id: `fixed-${i}` }, `${axis.label} `, select));
  });
}
function setAxis(side, name) {
  const other = side === "down" ? "across" : "down";
  if (view[other] === name) view[other] = view[side];
  view[side] = name;
  redraw();
}
function redraw() {
  drawGrid();
  keepAddress();
}
