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

  // A series that is pointed at is shown alone, in every chart of the page.
  const light = (series) => {
    document.body.classList.toggle("dim", series !== undefined);
    for (const each of all("[data-series]")) {
      each.classList.toggle("lit", each.dataset.series === series);
    }
  };
  for (const item of all(".legend [data-series]")) {
    item.addEventListener("pointerenter", () => light(item.dataset.series));
    item.addEventListener("pointerleave", () => light());
  }

  // Values of all curves at the pointer, largest first.
  for (const chart of all("svg.chart[data-x]")) {
    const xs = chart.dataset.x.split(",").map(Number);
    const lines = all(".line", chart).map((line) => ({
      label: line.dataset.label,
      style: line.getAttribute("class"),
      ys: line.dataset.y.split(",").map((text) => (text === "" ? NaN : Number(text))),
    }));
    const plot = chart.parentElement;
    const box = document.createElement("div");
    box.className = "readout";
    const left = Number(chart.dataset.left), right = Number(chart.dataset.right);
    chart.addEventListener("pointermove", (event) => {
      const shape = chart.getBoundingClientRect();
      const at = (event.clientX - shape.left) / shape.width * chart.viewBox.baseVal.width;
      const share = (at - left) / (right - left);
      if (share < -0.02 || share > 1.02) return box.remove();
      const low = Number(chart.dataset.low), high = Number(chart.dataset.high);
      const target = low + share * (high - low);
      const index = xs.reduce((best, x, i) =>
        Math.abs(x - target) < Math.abs(xs[best] - target) ? i : best, 0);
      box.replaceChildren();
      const head = document.createElement("div");
      head.textContent = `${chart.dataset.what} ${xs[index]}`;
      box.append(head);
      for (const line of [...lines].sort((a, b) => (b.ys[index] || 0) - (a.ys[index] || 0))) {
        if (Number.isNaN(line.ys[index])) continue;
        const row = document.createElement("div");
        const value = document.createElement("b");
        row.setAttribute("class", line.style);
        value.textContent = line.ys[index].toFixed(3);
        row.append(value, ` ${line.label}`);
        box.append(row);
      }
      plot.append(box);
      const x = event.clientX - shape.left, y = event.clientY - shape.top;
      box.style.left = `${x > shape.width / 2 ? x - box.offsetWidth - 14 : x + 14}px`;
      box.style.top = `${Math.min(Math.max(0, y - 20), Math.max(0, shape.height - box.offsetHeight))}px`;
    });
    chart.addEventListener("pointerleave", () => box.remove());
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
