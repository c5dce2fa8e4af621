// The panel beside the video: gallery of objects, table of events, counts and heatmap.

import { byId, countTable, EVENT_NAMES, getJson, make } from "./tables.js";
import { formatTime } from "./timeline.js";

export class Gallery {
  // onOpen(object): called with a click on an object; without it, objects are only listed.
  constructor(address, classes, onOpen) {
    Object.assign(this, { address, onOpen, offset: 0, rangeS: null, request: 0 });
    byId("object-class").append(...classes.map((name) => make("option", { value: name, textContent: name })));
    byId("object-class").addEventListener("change", () => this.load());
    byId("object-doubtful").addEventListener("change", () => this.load());
    byId("more-objects").addEventListener("click", () => this.load(this.offset));
    this.load();
  }

  async load(offset = 0) {
    const number = ++this.request, query = new URLSearchParams({ offset, class_name: byId("object-class").value });
    if (byId("object-doubtful").checked) query.set("doubtful", "true");
    if (this.rangeS) { query.set("from_s", this.rangeS[0]); query.set("to_s", this.rangeS[1]); }
    const page = await getJson(`${this.address}/objects?${query}`).catch((error) => ({ error }));
    if (number !== this.request) return;
    if (page.error) { byId("object-count").textContent = page.error.message; return; }
    const items = page.objects.map((object) => this.#item(object));
    if (offset) byId("crops").append(...items); else byId("crops").replaceChildren(...items);
    this.offset = offset + page.objects.length;
    byId("object-count").textContent = `${page.count.toLocaleString("en")} ${page.count === 1 ? "object" : "objects"}${this.rangeS ? " in the chosen range" : ""}`;
    byId("more-objects").hidden = this.offset >= page.count;
  }

  #item(object) {
    const picture = make("span", { className: "picture" });
    if (object.jpeg) picture.append(make("img", { src: `data:image/jpeg;base64,${object.jpeg}`, alt: "" }));
    else picture.append(make("span", { className: "muted small", textContent: "no crop" }));
    const button = make("button", { type: "button", className: "crop", disabled: !this.onOpen }, picture,
      make("strong", { textContent: `${object.class_name} ${object.track_id}` }),
      make("span", { className: "small muted", textContent: `${formatTime(object.start_s)} · ${object.duration_s.toFixed(1)} s` }));
    if (object.is_doubtful) button.append(make("span", { className: "status partial", textContent: "doubtful" }));
    button.addEventListener("click", () => this.onOpen(object));
    return make("li", {}, button);
  }
}

const MAX_ROWS = 500;

export class EventTable {
  // Without onOpen and onClip, events are only listed.
  constructor(events, total, onOpen, onClip) {
    Object.assign(this, { events, total, onOpen, onClip });
    this.show(null);
  }

  show(rangeS) {
    const shown = this.events.filter(({ time_s: timeS }) => !rangeS || (timeS >= rangeS[0] && timeS < rangeS[1]));
    const rows = shown.slice(0, MAX_ROWS).map((event) => make("tr", {},
      make("td", {}, make("button", { type: "button", className: "link", textContent: formatTime(event.time_s, 1), disabled: !this.onOpen, onclick: () => this.onOpen(event) })),
      make("td", { textContent: EVENT_NAMES[event.event] }), make("td", { textContent: event.name }),
      make("td", { textContent: event.class_name }), make("td", { className: "number", textContent: event.track_id }),
      make("td", {}, make("button", { type: "button", className: "link", textContent: "Clip", title: "Download a clip of three seconds before and after it", hidden: !this.onClip, onclick: (click) => this.onClip(event, click.currentTarget) }))));
    byId("event-table").tBodies[0].replaceChildren(...rows);
    const isCut = shown.length > rows.length || this.total > this.events.length;
    byId("event-count").textContent = this.total === 0 ? "No zone or line is defined, or none was crossed."
      : `${shown.length.toLocaleString("en")} ${shown.length === 1 ? "event" : "events"}${rangeS ? " in the chosen range" : ""}${isCut ? `, the first ${rows.length.toLocaleString("en")} are listed; the file has all` : ""}`;
  }
}

export class Counts {
  constructor(address) {
    this.address = address;
    byId("interval").addEventListener("change", () => this.load());
  }

  async load() {
    const minutes = byId("interval").value, target = byId("count-tables");
    for (const format of ["csv", "xlsx"]) byId(`counts-${format}`).href = `${this.address}/counts?minutes=${minutes}&format=${format}`;
    const result = await getJson(`${this.address}/counts?minutes=${minutes}`).catch((error) => ({ error }));
    if (result.error) { target.textContent = result.error.message; return; }
    const label = (row) => (row.interval_start_utc === null ? formatTime(row.interval_start_s) : new Date(row.interval_start_utc).toISOString().slice(11, 16));
    const isClock = result.counts.some((row) => row.interval_start_utc !== null);
    const nodes = [];
    const objects = result.counts.filter((row) => row.name === "objects"), events = result.counts.filter((row) => row.name !== "objects");
    if (objects.length) nodes.push(countTable("New objects by class", objects, isClock ? "From (UTC)" : "From", label, (row) => row.class_name, (row) => row.count));
    if (events.length) nodes.push(countTable("At zones and lines", events, isClock ? "From (UTC)" : "From", label, (row) => `${row.name}: ${EVENT_NAMES[row.event]}`, (row) => row.count));
    if (result.pairs.length) nodes.push(countTable("From line to line", result.pairs, "From", (row) => row.origin_line, (row) => `to ${row.destination_line}`, (row) => row.track_count));
    target.replaceChildren(...(nodes.length ? nodes : [make("p", { className: "muted", textContent: "Nothing was counted." })]));
  }
}

// Paints how long objects were in each cell of the frame.
export async function paintHeatmap(address, canvas, hiddenClasses) {
  const cells = (await getJson(`${address}/heatmap`)).filter((cell) => !hiddenClasses.has(cell.class_name));
  const columns = 32, rows = Math.ceil(columns * canvas.clientHeight / canvas.clientWidth), sums = new Float64Array(columns * rows);
  for (const cell of cells) if (cell.row_index < rows) sums[cell.row_index * columns + cell.column_index] += cell.object_s;
  const most = Math.max(...sums, 1e-9), scale = 20;
  Object.assign(canvas, { width: columns * scale, height: Math.round(columns * scale * canvas.clientHeight / canvas.clientWidth) });
  const context = canvas.getContext("2d");
  sums.forEach((sum, index) => {
    if (!sum) return;
    const share = Math.sqrt(sum / most);
    context.fillStyle = `hsl(${55 - 55 * share} 100% 50% / ${0.2 + 0.55 * share})`;
    context.fillRect(index % columns * scale, Math.floor(index / columns) * scale, scale, scale);
  });
}

