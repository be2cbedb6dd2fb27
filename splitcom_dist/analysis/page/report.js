"use strict";
const root = document.documentElement;
const themes = ["auto", "light", "dark"];
const button = document.getElementById("theme");

function show(theme) {
  if (theme === "auto") root.removeAttribute("data-theme");
  else root.setAttribute("data-theme", theme);
  button.textContent = "theme: " + theme;
  button.dataset.theme = theme;
}

function remembered() {
  try { return localStorage.getItem("splitcom-theme"); } catch { return null; }
}

button.addEventListener("click", () => {
  const next = themes[(themes.indexOf(button.dataset.theme) + 1) % themes.length];
  try { localStorage.setItem("splitcom-theme", next); } catch { /* a file without storage: not remembered */ }
  show(next);
});
show(themes.includes(remembered()) ? remembered() : "auto");

function keyOf(row, column) {
  const cell = row.cells[column];
  return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") {
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return a - b;
  }
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

function sort(header) {
  const table = header.closest("table"), column = header.cellIndex;
  const falling = header.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const rows = Array.from(table.tBodies[0].rows, (row) => [keyOf(row, column), row]);
  rows.sort((a, b) => (falling ? -1 : 1) * compare(a[0], b[0]));
  table.tBodies[0].append(...rows.map((pair) => pair[1]));
}

function save(table) {
  const quote = (text) => '"' + text.trim().replaceAll('"', '""') + '"';
  const heads = Array.from(table.tHead.rows[0].cells, (cell) => quote(cell.textContent.replace(/\s+/g, " ")));
  const lines = Array.from(table.tBodies[0].rows, (row) =>
    Array.from(row.cells, (cell) => cell.dataset.value ?? quote(cell.textContent)).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([[heads.join(","), ...lines].join("\n") + "\n"], { type: "text/csv" }));
  link.download = table.id + ".csv";
  link.click();
  URL.revokeObjectURL(link.href);
}

document.addEventListener("click", (event) => {
  const pressed = event.target.closest("th button, button.csv");
  if (pressed === null) return;
  if (pressed.matches(".csv")) save(document.getElementById(pressed.dataset.table));
  else sort(pressed.closest("th"));
});
