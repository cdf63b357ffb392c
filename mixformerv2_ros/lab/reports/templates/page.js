"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Sorting. The number of a cell is the data-v of the cell itself, or of what it shows just now.
  const valueOf = (cell) => {
    if (!cell) return NaN;
    const shown = cell.dataset.v !== undefined ? cell
      : all("[data-v]", cell).find((each) => each.getClientRects().length > 0);
    return shown ? Number(shown.dataset.v) : NaN;
  };
  const sort = (table, column, direction) => {
    const body = table.tBodies[0];
    const text = table.tHead.rows[0].cells[column].classList.contains("text");
    const keyed = [...body.rows].map((row) => ({
      row,
      key: text ? row.cells[column].textContent.trim() : valueOf(row.cells[column]),
    }));
    keyed.sort((a, b) => {
      if (text) return direction * a.key.localeCompare(b.key, undefined, { numeric: true });
      const empty = Number.isNaN(a.key) - Number.isNaN(b.key);
      return empty || (Number.isNaN(a.key) ? 0 : direction * (a.key - b.key));
    });
    body.append(...keyed.map((each) => each.row));
    [...table.tHead.rows[0].cells].forEach((head, index) => {
      if (index !== column) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    });
  };
  for (const table of all("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      if (head.classList.contains("plain")) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const first = head.classList.contains("text") ? 1 : -1;
        const now = head.getAttribute("aria-sort");
        sort(table, column, now ? (now === "ascending" ? -1 : 1) : first);
      });
    });
    const choice = table.closest(".choice");
    if (choice) {
      choice.addEventListener("change", () => {
        const sorted = [...table.tHead.rows[0].cells].findIndex((each) => each.hasAttribute("aria-sort"));
        if (sorted < 0) return;
        const rising = table.tHead.rows[0].cells[sorted].getAttribute("aria-sort") === "ascending";
        sort(table, sorted, rising ? 1 : -1);
      });
    }
  }

  const theme = document.getElementById("theme");
  if (theme) {
    theme.hidden = false;
    theme.addEventListener("click", () => {
      const root = document.documentElement;
      const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
      root.dataset.theme = (root.dataset.theme || system) === "dark" ? "light" : "dark";
    });
  }
})();
