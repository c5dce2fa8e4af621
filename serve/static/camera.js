// The page of a camera: hours of each day, what was recorded, gaps, and questions at drawn zones and lines.

import { Drawing } from "./drawing.js";
import { paintShape } from "./overlay.js";
import { byId, make } from "./tables.js";

const page = JSON.parse(byId("page-data").textContent);
const HOUR_MS = 3_600_000, DAY_MS = 86_400_000;
const day = (ms) => new Date(ms).toISOString().slice(0, 10), clock = (ms) => new Date(ms).toISOString().slice(0, 19).replace("T", " ");
const lengthText = (ms) => { const s = Math.round(ms / 1000); return s < 60 ? `${s} s` : s < 3600 ? `${Math.round(s / 60)} min` : s < 86400 ? `${(s / 3600).toFixed(1)} h` : `${(s / 86400).toFixed(1)} days`; };

function showHours(className) {
  const { hours, recordings, first_day_ms: firstMs, day_count: dayCount } = page.days, counts = new Map();
  for (const hour of hours) if (!className || hour.class_name === className) counts.set(hour.hour_ms, (counts.get(hour.hour_ms) || 0) + hour.track_count);
  const most = Math.max(1, ...counts.values());
  const head = make("tr", {}, make("th", { scope: "col", textContent: "Day" }), ...Array.from({ length: 24 }, (_, hour) => make("th", { scope: "col", textContent: String(hour).padStart(2, "0") })), make("th", { scope: "col", className: "number", textContent: "Sum" }));
  const rows = [];
  for (let d = dayCount - 1; d >= 0; d--) {
    const dayMs = firstMs + d * DAY_MS, cells = [];
    let sum = 0;
    for (let hour = 0; hour < 24; hour++) {
      const startMs = dayMs + hour * HOUR_MS, count = counts.get(startMs) || 0;
      const isRecorded = recordings.some((recording) => recording.start_ms < startMs + HOUR_MS && recording.end_ms > startMs);
      sum += count;
      const cell = make("td", { textContent: count || (isRecorded ? "0" : ""), className: isRecorded ? "hour" : "hour silent", title: `${day(startMs)} ${String(hour).padStart(2, "0")}:00, ${isRecorded ? `${count} objects` : "no recording"}` });
      cell.style.setProperty("--share", `${Math.round(count / most * 70)}%`);
      cells.push(cell);
    }
    rows.push(make("tr", {}, make("th", { scope: "row", textContent: day(dayMs) }), ...cells, make("td", { className: "number", textContent: sum || "" })));
    const bar = make("div", { className: "recorded" });
    for (const recording of recordings) {
      if (recording.start_ms >= dayMs + DAY_MS || recording.end_ms <= dayMs) continue;
      const left = Math.max(0, (recording.start_ms - dayMs) / DAY_MS), right = Math.min(1, (recording.end_ms - dayMs) / DAY_MS);
      const link = make("a", { href: `/recordings/${encodeURIComponent(recording.recording_id)}`, title: `${clock(recording.start_ms)}: ${recording.status || "in progress"}${recording.error ? `. ${recording.error}` : ""}`, className: recording.status && recording.status !== "ok" ? "bad" : "" });
      link.setAttribute("aria-label", `Recording of ${clock(recording.start_ms)}`);
      link.style.left = `${left * 100}%`; link.style.width = `${(right - left) * 100}%`;
      bar.append(link);
    }
    if (bar.children.length) rows.push(make("tr", { className: "bars" }, make("td"), make("td", { colSpan: 24 }, bar), make("td")));
  }
  byId("hours").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}

if (page.days) {
  const classes = [...new Set(page.days.hours.map((hour) => hour.class_name))].sort();
  byId("class").append(...classes.map((name) => make("option", { value: name, textContent: name })));
  byId("class").addEventListener("change", () => showHours(byId("class").value));
  showHours("");
  byId("gap-count").textContent = page.days.gaps.length;
  byId("gaps").tBodies[0].replaceChildren(...(page.days.gaps.length ? page.days.gaps.slice(-200).reverse().map((gap) => make("tr", {}, make("td", { textContent: clock(gap.start_ms) }), make("td", { textContent: clock(gap.end_ms) }), make("td", { className: "number", textContent: lengthText(gap.end_ms - gap.start_ms) })))
    : [make("tr", {}, make("td", { colSpan: 3, className: "muted", textContent: "None between the recordings of these days." }))]));
}

if (byId("canvas")) {
  const canvas = byId("canvas"), video = byId("video"), shapes = page.shapes;
  const redraw = () => {
    const width = Math.min(1280, Math.max(320, canvas.clientWidth * devicePixelRatio)), height = width * page.height_px / page.width_px;
    Object.assign(canvas, { width: Math.round(width), height: Math.round(height) });
    const context = canvas.getContext("2d");
    if (video.readyState >= 2) context.drawImage(video, 0, 0, canvas.width, canvas.height);
    for (const shape of shapes) paintShape(context, shape, canvas.width, canvas.height, Math.max(1, canvas.width / 960));
  };
  for (const name of ["loadeddata", "seeked"]) video.addEventListener(name, redraw);
  new ResizeObserver(redraw).observe(canvas);
  new Drawing({
    canvas, shapes, redraw, questionAddress: `/cameras/${encodeURIComponent(page.name)}/question`,
    saveAddress: page.camera ? `/cameras/${encodeURIComponent(page.name)}/shapes` : "",
    onSeek: (event) => { location.href = `/recordings/${encodeURIComponent(event.recording_id)}?t=${event.time_s.toFixed(3)}&track=${event.track_id}`; },
  });
}
