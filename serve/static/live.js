// What happens to a recording at the moment: its state, the progress of its stage, and the newest picture of it.

import { byId } from "./tables.js";
import { formatTime } from "./timeline.js";

const RELOAD_MS = 2000; // the results of the last stage are published meanwhile
const live = byId("live"), address = `/api/recordings/${encodeURIComponent(live.dataset.recording)}`;
let hasChanged = false, willReload = false;

function reloadSoon() {
  if (!willReload) setTimeout(() => location.reload(), RELOAD_MS);
  willReload = true;
}

const count = (value) => value.toLocaleString("en");

function stateText({ state, stage, queue_position: place, waiting_for: resource }) {
  if (state === "running") return stage ? `${stage.replaceAll("_", " ")}${resource ? `, waits for ${resource}` : ""}` : "Its run starts";
  if (state === "queued") return place ? `In the queue, place ${place}` : "In the queue";
  return { waiting: "Waits for its next run", done: "Done", failed: "Failed", skipped: "Skipped" }[state];
}

function detailText({ stage, frames_done: done, frames_total: total, frames_per_s: rate, remaining_s: left, error }) {
  if (!total) return error ?? "";
  const unit = stage?.includes("_crop_") ? "crops" : "frames", parts = [`${count(done)} of ${count(total)} ${unit}`];
  if (rate) parts.push(`${count(Math.round(rate))} ${unit}/s`);
  if (left !== null) parts.push(`${formatTime(Math.ceil(left))} left`);
  return parts.join(", ");
}

const states = new EventSource(`${address}/events`);
states.addEventListener("state", (event) => {
  const report = JSON.parse(event.data), isFinal = ["done", "failed", "skipped"].includes(report.state);
  hasChanged ||= !isFinal;
  if ("awaitsVideo" in live.dataset && report.frame_count && !isFinal) reloadSoon();
  live.hidden = report.state === "done" && !hasChanged;
  byId("live-state").textContent = stateText(report);
  byId("live-detail").textContent = detailText(report);
  byId("live-progress").hidden = !report.frames_total;
  if (report.frames_total) byId("live-progress").value = report.frames_done / report.frames_total;
});
states.addEventListener("end", () => {
  states.close();
  if (hasChanged) reloadSoon();
});
// Without a pipeline there is nothing to follow.
states.addEventListener("error", () => { live.hidden = states.readyState === EventSource.CLOSED; });

const pictures = new EventSource(`${address}/preview`);
pictures.addEventListener("preview", (event) => {
  const picture = JSON.parse(event.data);
  Object.assign(byId("live-picture"), { src: picture.image, hidden: false, title: picture.caption });
});
pictures.addEventListener("end", () => pictures.close());
