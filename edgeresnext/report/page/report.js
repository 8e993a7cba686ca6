"use strict";

// Sort a table by the column whose heading is pressed, and the other way round when it is pressed again.
function order(table, column, sign) {
  const numeric = table.tHead.rows[0].cells[column].classList.contains("number");
  const compare = (a, b) => (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
  const body = table.tBodies[0];
  const rows = [...body.rows];
  rows.sort((one, other) => {
    const [a, b] = [one, other].map((row) => row.cells[column].dataset.value);
    // What was not measured comes last, whichever way the table is sorted.
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    return sign * compare(a, b);
  });
  body.append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      order(table, column, descending ? -1 : 1);
    });
  });
}

const button = document.getElementById("theme");
const system = window.matchMedia("(prefers-color-scheme: dark)");
let dark = system.matches;
function show() {
  button.textContent = dark ? "Light" : "Dark";
}
button.addEventListener("click", () => {
  dark = !dark;
  document.documentElement.style.colorScheme = dark ? "dark" : "light";
  show();
});
button.hidden = false;
show();
