// Draws zones and lines on a canvas, asks for their counts at once, and writes them into the settings.

import { byId, countTable, EVENT_NAMES, make, postJson } from "./tables.js";

const SNAP = 0.012;

export class Drawing {
  // canvas: on which points are clicked. shapes: the list that the overlay draws; drawn ones are added to it.
  // redraw(): paints the canvas. questionAddress, saveAddress: of the server; without the latter nothing is saved.
  constructor({ canvas, shapes, redraw, questionAddress, saveAddress, onSeek }) {
    Object.assign(this, { canvas, shapes, redraw, questionAddress, saveAddress, onSeek });
    this.current = null;
    this.request = 0;
    byId("draw-zone").addEventListener("click", () => this.start("zone"));
    byId("draw-line").addEventListener("click", () => this.start("line"));
    byId("finish-shape").addEventListener("click", () => this.finish());
    byId("cancel-shape").addEventListener("click", () => this.cancel());
    byId("save-shapes").addEventListener("click", () => this.save());
    canvas.addEventListener("click", (event) => this.#addPoint(event));
    canvas.addEventListener("dblclick", () => this.finish());
    addEventListener("keydown", (event) => {
      if (!this.current || event.target.closest("input, select")) return;
      if (event.key === "Enter") { event.preventDefault(); this.finish(); }
      if (event.key === "Escape") this.cancel();
      if (event.key === "Backspace") { event.preventDefault(); this.current.points.pop(); this.#update(); }
    });
  }

  get isDrawing() { return this.current !== null; }

  drawn() { return this.shapes.filter((shape) => shape.isDrawn && !shape.isUnfinished); }

  start(kind) {
    this.cancel();
    const names = this.shapes.map((shape) => shape.name);
    let number = 1;
    while (names.includes(`${kind} ${number}`)) number++;
    this.current = { kind, name: `${kind} ${number}`, points: [], isDrawn: true, isUnfinished: true };
    this.shapes.push(this.current);
    this.canvas.classList.add("drawing");
    this.canvas.scrollIntoView({ block: "nearest" });
    this.#update();
  }

  #addPoint(event) {
    if (!this.current || event.detail > 1) return;
    const box = this.canvas.getBoundingClientRect();
    const snap = (value) => (value < SNAP ? 0 : value > 1 - SNAP ? 1 : value);
    this.current.points.push([snap((event.clientX - box.left) / box.width), snap((event.clientY - box.top) / box.height)]);
    // A line of two points is what is asked for most: it is complete with the second.
    if (this.current.kind === "line" && this.current.points.length === 2 && !event.shiftKey) this.finish();
    else this.#update();
  }

  finish() {
    const shape = this.current;
    if (!shape || shape.points.length < (shape.kind === "zone" ? 3 : 2)) return;
    delete shape.isUnfinished;
    this.current = null;
    this.canvas.classList.remove("drawing");
    this.#update();
    this.ask();
  }

  cancel() {
    if (this.current) this.shapes.splice(this.shapes.indexOf(this.current), 1);
    this.current = null;
    this.canvas.classList.remove("drawing");
    this.#update();
  }

  remove(shape) {
    this.shapes.splice(this.shapes.indexOf(shape), 1);
    this.#update();
    this.ask();
  }

  #update() {
    const isDrawing = this.current !== null, count = this.current?.points.length ?? 0;
    byId("finish-shape").hidden = !isDrawing;
    byId("finish-shape").disabled = count < (this.current?.kind === "zone" ? 3 : 2);
    byId("cancel-shape").hidden = !isDrawing;
    byId("save-shapes").hidden = !this.saveAddress || isDrawing || !this.drawn().length;
    byId("draw-hint").textContent = !isDrawing ? "" : this.current.kind === "zone"
      ? "Click the corners in order; double-click, Enter or Finish closes the zone." : "Click two points. With Shift the line gets more points, until Finish.";
    byId("drawn-shapes").replaceChildren(...this.drawn().map((shape) => {
      const name = make("input", { value: shape.name, ariaLabel: `Name of the ${shape.kind}`, maxLength: 100 });
      name.addEventListener("change", () => { shape.name = name.value.trim() || shape.name; this.#update(); this.ask(); });
      const row = make("li", { className: "row" }, make("span", { textContent: shape.kind, className: "muted small" }), name);
      if (shape.kind === "line") row.append(make("button", { type: "button", textContent: "Reverse", onclick: () => { shape.points.reverse(); this.#update(); this.ask(); } }));
      row.append(make("button", { type: "button", textContent: "Delete", onclick: () => this.remove(shape) }));
      return row;
    }));
    this.redraw();
  }

  #shapes() {
    const of = (kind) => this.drawn().filter((shape) => shape.kind === kind).map(({ name, points }) => ({ name, points }));
    return { zones: of("zone"), lines: of("line") };
  }

  async ask() {
    const number = ++this.request, answer = byId("answer");
    byId("save-result").textContent = "";
    if (!this.drawn().length) { answer.replaceChildren(); return; }
    answer.setAttribute("aria-busy", "true");
    try {
      const result = await postJson(this.questionAddress, this.#shapes());
      if (number === this.request) this.#show(result);
    } catch (error) {
      if (number === this.request) answer.replaceChildren(make("p", { className: "problem", textContent: error.message }));
    }
    answer.removeAttribute("aria-busy");
  }

  #show(result) {
    const answer = byId("answer");
    if (!result.counts.length) { answer.replaceChildren(make("p", { textContent: "No tracked object crosses, enters or leaves it." })); return; }
    const nodes = [countTable(result.recording_count > 1 ? `Counts over ${result.recording_count} recordings` : "Counts", result.counts, "Class", (row) => row.class_name, (row) => `${row.name}: ${EVENT_NAMES[row.event]}`, (row) => row.count)];
    if (this.onSeek && result.events.length) {
      const list = make("ul", { className: "plain moments" }, ...result.events.slice(0, 200).map((event) => make("li", {}, make("button", {
        type: "button", className: "quiet", textContent: `${event.time_s.toFixed(1)} s · ${event.class_name} ${event.track_id} · ${event.name} ${EVENT_NAMES[event.event]}`,
        onclick: () => this.onSeek(event),
      }))));
      nodes.push(make("div", { className: "scroll short", tabIndex: 0 }, list));
    }
    answer.replaceChildren(...nodes);
  }

  async save() {
    const result = byId("save-result");
    try {
      result.textContent = (await postJson(this.saveAddress, this.#shapes())).message;
      result.className = "small";
      for (const shape of this.drawn()) delete shape.isDrawn; // they are in the settings now
      this.#update();
    } catch (error) {
      Object.assign(result, { textContent: error.message, className: "small problem" });
    }
  }
}

