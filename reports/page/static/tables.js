"use strict";
/* Sortable, filterable tables. Every body of a table is sorted by itself: sentinels stay apart. */
const collator = new Intl.Collator("en", { numeric: true });
const sortables = { main: "main-table", cells: "cells-table" };

function sortBy(name, order) {
  const table = byId(sortables[name]);
  table.querySelectorAll("th[aria-sort]").forEach((th) => th.removeAttribute("aria-sort"));
  const column = order ? parseInt(order, 10) : -1;
  const header = table.tHead.rows[0].cells[column];
  const falls = order.endsWith("d");
  header?.setAttribute("aria-sort", falls ? "descending" : "ascending");
  const key = (tr) => (header ? tr.cells[column].dataset.value ?? tr.cells[column].textContent.trim() : tr.dataset.order);
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === ""); /* absent values stay last */
    const by = isNaN(a) || isNaN(b) ? collator.compare(a, b) : a - b;
    return falls && header ? -by : by;
  };
  for (const body of table.tBodies) {
    const lines = [...body.rows].map((tr) => [key(tr), tr]);
    body.append(...lines.sort((a, b) => compare(a[0], b[0])).map(([, tr]) => tr));
  }
}
/* Once up, twice down, a third time as it was. */
function makeSortable(name) {
  const table = byId(sortables[name]);
  [...table.tBodies].forEach((body) => [...body.rows].forEach((tr, i) => { tr.dataset.order = i; }));
  [...table.tHead.rows[0].cells].forEach((th, column) => {
    const info = th.querySelector(".info");
    const button = make("button", { type: "button", title: "sort by this column" });
    button.append(...[...th.childNodes].filter((node) => node !== info));
    th.prepend(button);
    button.addEventListener("click", () => {
      const next = { [`${column}a`]: `${column}d`, [`${column}d`]: "" };
      view[name] = next[view[name]] ?? `${column}a`;
      sortBy(name, view[name]);
      keepAddress();
    });
  });
}

function cellLine(cell) {
  const open = make("button", { type: "button", textContent: "watch" });
  open.setAttribute("aria-label", `watch ${nameOf(cell)}`);
  open.addEventListener("click", () => goToCell(cell));
  const tr = make("tr", {}, make("td", {}, swatch(cell.row), cell.row.label));
  tr.cell = cell;
  const badge = make("span", { className: `badge ${cell.state}`, textContent: cell.state, title: cell.reason });
  tr.append(make("td", { className: "left", textContent: cell.clip.id }),
    make("td", { textContent: cell.seed }), make("td", { className: "left" }, badge));
  const number = (value, decimals) => {
    const td = make("td", { textContent: show(value, decimals) });
    td.dataset.value = value ?? "";
    return td;
  };
  METRICS.forEach((metric) => tr.append(number(cell.values[metric.id], metric.decimals)));
  tr.append(number(cell.cost.seconds_per_frame, 2), make("td", {}, open));
  return tr;
}
/* Bring a cell into the grid, whatever is fixed there, and choose it. */
function goToCell(cell) {
  for (const axis of fixedAxes()) {
    const own = axis.of(cell);
    if (own !== null) view.fix[axis.name] = own;
  }
  view.cell = cell.key.slice(0, 16);
  redraw();
  byId("watch").scrollIntoView();
  const tile = [...document.querySelectorAll(".tile")].find((each) => each.dataset.key === cell.key);
  tile?.scrollIntoView({ block: "nearest", inline: "nearest" });
}
function filterTables() {
  const filter = parseFilter(view.q);
  let kept = 0;
  for (const tr of byId("cells-body").rows) {
    tr.hidden = !keeps(filter, tr.cell);
    kept += !tr.hidden;
  }
  /* A line of the summary stays when its own words and means pass, or when all of one cell's do. */
  for (const tr of document.querySelectorAll("#main-table tbody tr")) {
    const row = ROWS.find((each) => each.label === tr.dataset.row);
    const own = [row.label, row.method, ...Object.values(row.axes)].join(" ").toLowerCase();
    const fields = { row: row.label, method: row.method, ...row.axes, ...row.means };
    const numeric = filter.some((each) => METRICS.some((metric) => each.field && metric.id.includes(each.field)));
    const some = !numeric && CELLS.some((cell) => cell.row === row && keeps(filter, cell));
    tr.hidden = filter.length > 0 && !some && !passes(filter, own, fields);
  }
  byId("filtered").textContent = view.q ? `${kept} of ${plural(CELLS.length, "cell")}` : plural(CELLS.length, "cell");
}
/* The definition of a metric, over the table that it explains. */
function explain(link) {
  const told = document.querySelector(link.getAttribute("href"));
  byId("explained").replaceChildren(...[...told.childNodes].map((node) => node.cloneNode(true)));
  byId("explain").showModal();
}
