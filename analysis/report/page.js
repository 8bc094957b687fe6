// Sorting, filtering, opening a cell by its link, and the theme. The page is complete without this script.
"use strict";
(() => {
  const root = document.documentElement;
  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches);
  const remembered = (value) => {
    try { // a page opened from a file may lack storage
      if (value) localStorage.setItem("tensloradist-theme", value);
      return localStorage.getItem("tensloradist-theme");
    } catch { return null; }
  };
  const theme = document.getElementById("theme");
  const showTheme = () => { theme.textContent = isDark() ? "Light theme" : "Dark theme"; };
  const saved = remembered();
  if (saved === "light" || saved === "dark") root.dataset.theme = saved;
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remembered(root.dataset.theme);
    showTheme();
  });
  systemDark.addEventListener("change", showTheme);
  showTheme();
  document.querySelectorAll(".tools").forEach((tools) => { tools.hidden = false; });

  const key = (row, column) => {
    const cell = row.cells[column];
    const number = parseFloat(cell.dataset.v);
    return Number.isNaN(number) ? (cell.dataset.v === undefined ? cell.textContent.trim() : null) : number;
  };
  const sort = (table, header) => {
    const column = header.cellIndex;
    const descending = header.getAttribute("aria-sort") === "ascending" || (column > 0 && !header.hasAttribute("aria-sort"));
    table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].map((row, index) => ({ row, index, value: key(row, column) }));
    const sign = descending ? -1 : 1;
    rows.sort((a, b) => {
      if (a.value === null || b.value === null) return (a.value === null) - (b.value === null) || a.index - b.index;
      const order = typeof a.value === "number" && typeof b.value === "number"
        ? a.value - b.value : String(a.value).localeCompare(String(b.value));
      return sign * order || a.index - b.index;
    });
    table.tBodies[0].append(...rows.map(({ row }) => row));
  };
  document.querySelectorAll("table.sortable").forEach((table) => {
    table.querySelectorAll("thead th").forEach((header) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => sort(table, header));
    });
  });

  const filter = document.getElementById("filter");
  const count = document.getElementById("filter-count");
  const places = [...document.querySelectorAll("[data-f]")].map((element) => ({ element, text: element.dataset.f.toLowerCase() }));
  const groups = [...document.querySelectorAll("[data-group]")].map((element) => ({ element, inner: [...element.querySelectorAll("[data-f]")] }));
  const apply = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { element, text } of places) {
      const hide = !words.every((word) => text.includes(word));
      if (element.hidden !== hide) element.hidden = hide;
      if (!hide && element.tagName === "TR") shown += 1;
    }
    for (const { element, inner } of groups) element.hidden = inner.length > 0 && inner.every((each) => each.hidden);
    count.textContent = words.length ? `${shown} row${shown === 1 ? "" : "s"} shown` : "";
  };
  filter.addEventListener("input", apply);
  if (filter.value) apply();

  const open = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const cell = target && target.closest("details");
    if (!cell) return;
    cell.open = true;
    cell.hidden = false;
    target.scrollIntoView();
    target.focus({ preventScroll: true });
  };
  addEventListener("hashchange", open);
  open();
})();
