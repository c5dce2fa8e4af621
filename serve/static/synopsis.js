// A synopsis: outlines the object under the pointer, and opens its moment on a click.
const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("page-data").textContent);
const video = byId("video"), canvas = byId("canvas"), play = byId("play"), position = byId("position");
canvas.width = data.width_px;
canvas.height = data.height_px;
let frame = 0, pointer = null;

/** The object under a point in the frame that is shown, with its place in its own frames; the smallest of several. */
function objectAt({ x, y }) {
  let best = null, bestArea = Infinity;
  for (const object of data.objects) {
    const index = frame - object.start_frame, box = object.boxes[index];
    if (!box || x < box[0] || x > box[2] || y < box[1] || y > box[3]) continue;
    const area = (box[2] - box[0]) * (box[3] - box[1]);
    if (area < bestArea) [best, bestArea] = [{ object, index, box }, area];
  }
  return best;
}

function paint() {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  const hit = pointer && objectAt(pointer);
  canvas.style.cursor = hit ? "pointer" : "default";
  if (!hit) return;
  context.strokeStyle = "#ffffff";
  context.lineWidth = Math.max(2, canvas.height / 300);
  context.strokeRect(hit.box[0], hit.box[1], hit.box[2] - hit.box[0], hit.box[3] - hit.box[1]);
}

function show(mediaTime) {
  frame = Math.min(data.frame_count - 1, Math.max(0, Math.round(mediaTime * data.rate_fps)));
  position.value = frame;
  paint();
}

function pointOf(event) {
  const area = canvas.getBoundingClientRect();
  return { x: ((event.clientX - area.left) / area.width) * data.width_px, y: ((event.clientY - area.top) / area.height) * data.height_px };
}

if ("requestVideoFrameCallback" in HTMLVideoElement.prototype) {
  const next = (_, presented) => { show(presented.mediaTime); video.requestVideoFrameCallback(next); };
  video.requestVideoFrameCallback(next);
} else video.addEventListener("timeupdate", () => show(video.currentTime - 0.5 / data.rate_fps));

canvas.addEventListener("pointermove", (event) => { pointer = pointOf(event); paint(); });
canvas.addEventListener("pointerleave", () => { pointer = null; paint(); });
canvas.addEventListener("click", (event) => {
  const hit = objectAt(pointOf(event));
  if (hit) location.href = `/recordings/${encodeURIComponent(hit.object.recording_id)}?t=${hit.object.times_s[hit.index].toFixed(3)}&track=${hit.object.track_id}`;
});
play.addEventListener("click", () => (video.paused ? video.play() : video.pause()));
for (const name of ["play", "pause"]) video.addEventListener(name, () => { play.textContent = video.paused ? "Play" : "Pause"; });
position.addEventListener("input", () => { video.pause(); video.currentTime = (Number(position.value) + 0.5) / data.rate_fps; });
if (video.paused) play.textContent = "Play";
