"use strict";
(() => {
  const table = document.getElementById("table");
  if (!table) return;
  const body = table.tBodies[0];
  const valueOf = (row, column) => {
    const text = row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const number = Number(text);
    return text !== "" && Number.isFinite(number) ? number : text;
  };
  const compare = (a, b) => (typeof a === typeof b
    ? (typeof a === "number" ? a - b : a.localeCompare(b))
    : (typeof a === "number" ? -1 : 1));
  // Heads in two rows: those of contrasts stand, two each, after the subject and the picture.
  const [upper, lower] = [...table.tHead.rows].map((row) => [...row.cells]);
  const columns = new Map(lower.map((head, i) => [head, 2 + i]));
  upper.forEach((head, i) => {
    if (head.rowSpan > 1) columns.set(head, i < 2 ? i : i - upper.filter((one) => one.colSpan > 1).length + lower.length);
  });
  table.querySelectorAll("th button").forEach((button) => button.addEventListener("click", () => {
    const head = button.closest("th");
    const up = head.getAttribute("aria-sort") !== "ascending";
    table.querySelectorAll("th").forEach((one) => one.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const column = columns.get(head);
    const rows = [...body.rows].sort((a, b) => compare(valueOf(a, column), valueOf(b, column)));
    body.append(...(up ? rows : rows.reverse()));
  }));
  const find = document.getElementById("find");
  const search = () => {
    let shown = 0;
    for (const row of body.rows) {
      row.hidden = !row.cells[0].textContent.includes(find.value.trim());
      shown += row.hidden ? 0 : 1;
    }
    document.getElementById("found").textContent = `${shown} of ${body.rows.length}`;
  };
  find.addEventListener("input", search);
  search();
})();
