// The timeline of a recording: a lane per class, zone and kind of event; click to seek, drag to select a range.

const LANE_PX = 26, AXIS_PX = 20, TICK_GAP_PX = 90;
const TICKS_S = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 86400];

export class Timeline extends EventTarget {
  // root: element with .timeline-labels and .timeline-lanes (canvas and playhead). lanes: {name, peaks, colour} or
  // {name, ticks: [{time_s, up}], colour} or {name, spans: [{start_s, end_s, kind}], cuts}.
  constructor(root, durationS, binS, lanes) {
    super();
    this.labels = root.querySelector(".timeline-labels");
    this.area = root.querySelector(".timeline-lanes");
    this.canvas = this.area.querySelector("canvas");
    this.playhead = this.area.querySelector(".playhead");
    this.brush = this.area.querySelector(".brush");
    Object.assign(this, { durationS, binS, lanes, viewS: [0, durationS], rangeS: null, timeS: 0, widthPx: 0 });
    this.labels.append(Object.assign(document.createElement("div"), { className: "axis" }));
    for (const lane of lanes) {
      const label = document.createElement("div");
      label.textContent = label.title = lane.name;
      this.labels.append(label);
    }
    this.area.style.height = `${AXIS_PX + lanes.length * LANE_PX}px`;
    new ResizeObserver(() => { this.widthPx = this.area.clientWidth; this.draw(); }).observe(this.area);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    addEventListener("themechange", () => this.draw());
    this.#listen();
  }

  #timeAt(event) {
    const box = this.area.getBoundingClientRect(), [start, end] = this.viewS;
    return start + Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * (end - start);
  }

  #listen() {
    let from = null;
    this.area.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      from = { x: event.clientX, timeS: this.#timeAt(event) };
      this.area.setPointerCapture(event.pointerId);
    });
    this.area.addEventListener("pointermove", (event) => {
      if (from && Math.abs(event.clientX - from.x) > 5) this.#setRange([from.timeS, this.#timeAt(event)].sort((a, b) => a - b), false);
    });
    this.area.addEventListener("pointerup", (event) => {
      if (!from) return;
      if (Math.abs(event.clientX - from.x) > 5) this.#setRange([from.timeS, this.#timeAt(event)].sort((a, b) => a - b), true);
      else this.dispatchEvent(new CustomEvent("seek", { detail: this.#timeAt(event) }));
      from = null;
    });
    this.area.addEventListener("pointercancel", () => { from = null; });
  }

  #setRange(rangeS, isFinal) {
    this.rangeS = rangeS;
    this.#place();
    if (isFinal) this.dispatchEvent(new CustomEvent("range", { detail: rangeS }));
  }

  clearRange() {
    this.rangeS = null;
    this.#place();
    this.dispatchEvent(new CustomEvent("range", { detail: null }));
  }

  zoom(viewS) { this.viewS = viewS ?? [0, this.durationS]; this.draw(); }

  setTime(timeS) {
    this.timeS = timeS;
    this.#placePlayhead();
  }

  #x(timeS) { return (timeS - this.viewS[0]) / (this.viewS[1] - this.viewS[0]); }

  #placePlayhead() {
    const x = this.#x(this.timeS);
    this.playhead.hidden = x < 0 || x > 1;
    this.playhead.style.transform = `translateX(${x * this.widthPx}px)`; // a measured width would cost a layout per frame
    const second = Math.round(this.timeS);
    if (second === this.shownSecond) return;
    this.shownSecond = second;
    this.area.setAttribute("aria-valuenow", second);
    this.area.setAttribute("aria-valuetext", formatTime(this.timeS));
  }

  #place() {
    this.#placePlayhead();
    this.brush.hidden = !this.rangeS;
    if (!this.rangeS) return;
    const [left, right] = this.rangeS.map((timeS) => Math.min(1, Math.max(0, this.#x(timeS))));
    this.brush.style.left = `${left * 100}%`;
    this.brush.style.width = `${(right - left) * 100}%`;
  }

  draw() {
    const width = this.widthPx, height = AXIS_PX + this.lanes.length * LANE_PX, scale = devicePixelRatio || 1;
    if (!width) return;
    Object.assign(this.canvas, { width: width * scale, height: height * scale });
    const context = this.canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    context.scale(scale, scale);
    this.#drawAxis(context, style, width, height);
    this.lanes.forEach((lane, index) => {
      const top = AXIS_PX + index * LANE_PX, bottom = top + LANE_PX;
      context.fillStyle = style.getPropertyValue("--line");
      context.fillRect(0, bottom - 1, width, 1);
      context.fillStyle = lane.colour ? lane.colour : style.getPropertyValue("--accent");
      if (lane.peaks) this.#drawPeaks(context, lane, width, bottom);
      for (const tick of lane.ticks || []) {
        const x = this.#x(tick.time_s) * width;
        if (x >= 0 && x <= width) context.fillRect(x - 0.75, tick.up ? top + 3 : top + LANE_PX / 2, 1.5, LANE_PX / 2 - 4);
      }
      for (const span of lane.spans || []) {
        const left = this.#x(span.start_s) * width, right = this.#x(span.end_s) * width;
        if (right < 0 || left > width) continue;
        context.fillStyle = style.getPropertyValue("--warning");
        context.fillRect(left, top + 6, Math.max(2, right - left), LANE_PX - 13);
      }
      context.fillStyle = style.getPropertyValue("--muted");
      for (const cut of lane.cuts || []) {
        const x = this.#x(cut) * width;
        if (x >= 0 && x <= width) context.fillRect(x, top + 3, 1.5, LANE_PX - 7);
      }
    });
    this.#place();
  }

  #drawAxis(context, style, width, height) {
    const [start, end] = this.viewS, perTickS = (end - start) * TICK_GAP_PX / width;
    const stepS = TICKS_S.find((tick) => tick >= perTickS) ?? Math.ceil(perTickS / 86400) * 86400;
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "top";
    for (let tick = Math.ceil(start / stepS - 1e-6); tick * stepS <= end + 1e-6; tick++) {
      const x = Math.round(this.#x(tick * stepS) * width), text = formatTime(tick * stepS, stepS < 1 ? 1 : 0);
      context.fillStyle = style.getPropertyValue("--line");
      context.fillRect(Math.min(x, width - 1), AXIS_PX - 4, 1, height - AXIS_PX + 4);
      context.fillStyle = style.getPropertyValue("--muted");
      const textPx = context.measureText(text).width;
      context.fillText(text, Math.min(Math.max(0, x - textPx / 2), width - textPx), 1);
    }
  }

  #drawPeaks(context, lane, width, bottom) {
    const most = Math.max(1, ...lane.peaks);
    for (let bin = 0; bin < lane.peaks.length; bin++) {
      if (!lane.peaks[bin]) continue;
      // Whole pixels: fractions would leave a stripe between bins.
      const left = Math.round(this.#x(bin * this.binS) * width), right = Math.round(this.#x((bin + 1) * this.binS) * width);
      if (right < 0 || left > width) continue;
      const height = Math.max(3, Math.round(lane.peaks[bin] / most * (LANE_PX - 6)));
      context.fillRect(left, bottom - 1 - height, Math.max(1, right - left), height);
    }
  }
}

export function formatTime(timeS, decimals = 0) {
  const scale = 10 ** decimals, total = Math.floor(timeS * scale + 1e-6) / scale;
  const hours = Math.floor(total / 3600), minutes = Math.floor(total / 60) % 60, seconds = total % 60;
  const text = `${String(minutes).padStart(2, "0")}:${seconds.toFixed(decimals).padStart(decimals ? 3 + decimals : 2, "0")}`;
  return hours ? `${hours}:${text}` : text;
}
