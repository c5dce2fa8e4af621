// Small pieces of pages: elements, requests, and tables.

export const byId = (id) => document.getElementById(id);

// Creates an element; children are elements or texts.
export function make(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

// Fetches JSON; an error has the sentence of the server.
export async function getJson(address, options) {
  return readJson(await fetch(address, { headers: { Accept: "application/json" }, ...options }));
}

export async function readJson(response) {
  const value = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(value.detail || `The server answered with ${response.status}.`);
  return value;
}

export const postJson = (address, value) => getJson(address, {
  method: "POST", body: JSON.stringify(value), headers: { "Content-Type": "application/json", Accept: "application/json" },
});

// Makes the tabs of a tablist switch their panels, by click and arrow keys.
export function listenToTabs(list) {
  const tabs = [...list.querySelectorAll("[role=tab]")];
  const show = (tab) => {
    for (const other of tabs) {
      const isShown = other === tab;
      other.setAttribute("aria-selected", isShown);
      other.tabIndex = isShown ? 0 : -1;
      byId(other.getAttribute("aria-controls")).hidden = !isShown;
    }
    list.dispatchEvent(new CustomEvent("tab", { detail: tab.getAttribute("aria-controls") }));
  };
  tabs.forEach((tab, index) => {
    tab.addEventListener("click", () => show(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault(); event.stopPropagation();
      const next = tabs[(index + step + tabs.length) % tabs.length];
      show(next); next.focus();
    });
  });
}

// Table of counts: a row per interval, a column per name and event, summed over classes.
export function countTable(caption, rows, rowLabel, rowKey, columnKey, value) {
  const columns = [...new Set(rows.map(columnKey))], groups = new Map();
  for (const row of rows) {
    const key = rowKey(row);
    if (!groups.has(key)) groups.set(key, new Map());
    groups.get(key).set(columnKey(row), (groups.get(key).get(columnKey(row)) || 0) + value(row));
  }
  const most = new Map(columns.map((name) => [name, Math.max(...[...groups.values()].map((group) => group.get(name) || 0))]));
  const head = make("tr", {}, make("th", { scope: "col", textContent: rowLabel }), ...columns.map((name) => make("th", { scope: "col", className: "number", textContent: name })));
  const body = [...groups].map(([label, group]) => make("tr", {}, make("th", { scope: "row", textContent: label }), ...columns.map((name) => {
    const cell = make("td", { className: "number bar", textContent: group.get(name) || "" });
    cell.style.setProperty("--share", `${(group.get(name) || 0) / (most.get(name) || 1) * 100}%`);
    return cell;
  })));
  return make("div", { className: "scroll", tabIndex: 0 }, make("table", { className: "list" }, make("caption", { textContent: caption }), make("thead", {}, head), make("tbody", {}, ...body)));
}

export const EVENT_NAMES = { enter: "enters", exit: "leaves", in: "in", out: "out", appears: "appears" };
