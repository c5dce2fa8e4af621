// The page of a recording: joins player, overlay, timeline and panel.

import { BoxStore } from "./box_store.js";
import { downloadClip } from "./clips.js";
import { colourOf } from "./colours.js";
import { Drawing } from "./drawing.js";
import { FrameClock } from "./frame_clock.js";
import { Overlay } from "./overlay.js";
import { Player, RATES } from "./player.js";
import { Counts, EventTable, Gallery, paintHeatmap } from "./side_panel.js";
import { byId, getJson, listenToTabs, make, readJson } from "./tables.js";
import { formatTime, Timeline } from "./timeline.js";

const page = JSON.parse(byId("page-data").textContent);
const address = `/recordings/${encodeURIComponent(page.recording_id)}`;
const LAYERS = { boxes: "Boxes", labels: "Labels", trails: "Trails", masks: "Masks", keypoints: "Keypoints", zones: "Zones and lines" };
const SECOND = 1, CLIP_CONTEXT_S = 3;

// The request that early.js has started, or the same now.
const requestEarly = (name) => window.earlyRequests?.[name] ?? fetch(`${address}/${name}`);

async function readTimes() {
  const response = await requestEarly("times");
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).detail || "The times of the frames cannot be read.");
  const times = new Float64Array(await response.arrayBuffer()), count = times.length / 2;
  return new FrameClock(times.subarray(0, count), times.subarray(count));
}

let waitText = "";

function showWait(text) {
  if (text === waitText) return; // called with every frame
  waitText = text;
  const wait = byId("wait");
  wait.hidden = !text;
  wait.textContent = text;
}

// Buttons of classes and layers, each pressed while it is shown.
function addSwitch(parent, label, isOn, onChange, colour) {
  const button = make("button", { type: "button", className: "switch" });
  if (colour) { const swatch = make("span", { className: "swatch" }); swatch.style.background = colour; button.append(swatch); }
  button.append(label);
  button.setAttribute("aria-pressed", isOn);
  button.addEventListener("click", () => {
    const isNow = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", isNow);
    onChange(isNow);
  });
  parent.append(button);
  return button;
}

function buildLanes(timeline, classes) {
  const lanes = timeline.classes.map((lane) => ({ ...lane, colour: colourOf(Math.max(0, classes.indexOf(lane.name))) }));
  for (const zone of timeline.zones) lanes.push({ ...zone, colour: "" });
  const names = [...new Set(timeline.events.map((event) => event.name))].sort();
  for (const name of names) {
    const ticks = timeline.events.filter((event) => event.name === name).map((event) => ({ time_s: event.time_s, up: event.event === "in" || event.event === "enter" }));
    const isZone = timeline.zones.some((zone) => zone.name === name);
    lanes.push({ name: isZone ? `${name}: enters, leaves` : `${name}: in, out`, ticks });
  }
  const kinds = [...new Set(timeline.marks.map((mark) => mark.kind))];
  for (const kind of kinds) lanes.push({ name: kind, spans: timeline.marks.filter((mark) => mark.kind === kind) });
  if (timeline.cuts.length) lanes.push({ name: "cuts", cuts: timeline.cuts });
  return lanes;
}

async function start() {
  const timelineRequest = getJson(`${address}/timeline`);
  timelineRequest.catch(() => {}); // reported where it is awaited
  const [clock, index] = await Promise.all([readTimes(), requestEarly("index").then(readJson)]);
  const canvas = byId("canvas");
  let player = null;
  const store = new BoxStore(address, index, clock.count, () => player?.redraw());
  const overlay = new Overlay(store, clock, index.classes, page.shapes);
  player = new Player(byId("video"), canvas, clock, (context, width, height, frame) => {
    overlay.paint(context, width, height, frame);
    showWait(overlay.isLoading ? "Loading boxes …" : frame < 0 && !player.isExact ? "Boxes appear when paused: this browser cannot tell which frame it shows." : "");
  });
  window.cvAssets = { player, overlay, store, clock }; // for tests and the console
  store.chunkOf(0);
  const redraw = () => player.redraw();
  const goTo = (timeS) => player.seek(clock.frameAtTime(timeS));

  // Playback
  byId("rate").append(...RATES.map((rate) => make("option", { value: rate, textContent: `${rate}×`, selected: rate === 1 })));
  byId("rate").addEventListener("change", () => player.setRate(Number(byId("rate").value)));
  byId("play").addEventListener("click", () => player.toggle());
  byId("back").addEventListener("click", () => player.step(-1));
  byId("forward").addEventListener("click", () => player.step(1));
  player.addEventListener("state", () => { byId("play").textContent = player.isPlaying ? "Pause" : "Play"; });

  // Classes, layers, confidence, selected track
  index.classes.forEach((name, position) => addSwitch(byId("classes"), name, true, (isOn) => {
    if (isOn) overlay.hiddenClasses.delete(position); else overlay.hiddenClasses.add(position);
    redraw(); heat();
  }, colourOf(position)));
  if (!index.classes.length) byId("classes").append(make("span", { className: "muted small", textContent: "No object was tracked in this recording." }));
  const switches = {};
  for (const [name, label] of Object.entries(LAYERS)) {
    if (["masks", "keypoints"].includes(name) && !index.has_shapes) continue;
    switches[name] = addSwitch(byId("layers"), label, true, (isOn) => { overlay.layers[name] = isOn; redraw(); });
  }
  const heatCanvas = byId("heat");
  const hiddenNames = () => new Set([...overlay.hiddenClasses].map((position) => index.classes[position]));
  const heat = () => { if (!heatCanvas.hidden) paintHeatmap(address, heatCanvas, hiddenNames()).catch((error) => showWait(error.message)); };
  addSwitch(byId("layers"), "Heatmap", false, (isOn) => { heatCanvas.hidden = !isOn; heat(); });
  byId("confidence").addEventListener("input", () => {
    overlay.minConfidence = byId("confidence").value / 100;
    byId("confidence-value").textContent = `${byId("confidence").value}%`;
    redraw();
  });
  const cut = (query, button) => downloadClip(address, overlay.layers, query, button, byId("clip-status"));
  const select = (track) => {
    overlay.selectedTrack = track;
    overlay.onlyTrack = null;
    const area = byId("selected");
    area.hidden = track === null;
    if (track !== null) {
      const only = make("button", { type: "button", textContent: "Only this" }), hide = make("button", { type: "button", textContent: "Hide" });
      only.addEventListener("click", () => { overlay.onlyTrack = overlay.onlyTrack === null ? track : null; only.textContent = overlay.onlyTrack === null ? "Only this" : "Show others"; redraw(); });
      hide.addEventListener("click", () => { overlay.hiddenTracks.add(track); select(null); });
      const clip = make("button", { type: "button", textContent: "Clip", title: "Download a clip of this track, with what is shown" });
      clip.addEventListener("click", () => cut({ track }, clip));
      const similar = page.has_embeddings ? [make("a", { className: "button", textContent: "Similar", title: "Objects of all recordings that look like it", href: `/search?like=${encodeURIComponent(`${page.recording_id}/${track}`)}` })] : [];
      area.replaceChildren(make("span", { className: "small", textContent: `Track ${track}` }), only, hide, clip, ...similar, make("button", { type: "button", textContent: "×", title: "Show all tracks", ariaLabel: "Show all tracks", onclick: showAll }));
    }
    redraw();
  };
  const showAll = () => { overlay.hiddenTracks.clear(); select(null); };
  const open = (timeS, track) => { player.video.pause(); select(track); goTo(timeS); };
  canvas.addEventListener("click", (event) => {
    if (drawing.isDrawing) return;
    const box = canvas.getBoundingClientRect(), track = overlay.trackAt((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height, player.frame);
    if (track === null && overlay.selectedTrack === null) player.toggle(); else select(track);
  });

  // Drawing
  const drawing = new Drawing({
    canvas, shapes: page.shapes, redraw, questionAddress: `${address}/question`,
    saveAddress: page.camera ? `/cameras/${encodeURIComponent(page.camera)}/shapes` : "",
    onSeek: (event) => open(event.time_s, event.track_id),
  });

  // Panel
  const gallery = new Gallery(address, index.classes, (object) => {
    open(object.start_s, object.track_id);
    player.video.addEventListener("seeked", () => player.video.play().catch(() => {}), { once: true });
  });
  const counts = new Counts(address);
  const tabs = document.querySelector("[role=tablist]");
  listenToTabs(tabs);
  tabs.addEventListener("tab", ({ detail }) => { if (detail === "counts") counts.load(); });

  // Timeline
  const data = await timelineRequest;
  const timeline = new Timeline(byId("timeline"), page.duration_s, data.bin_s, buildLanes(data, index.classes));
  if (!timeline.lanes.length) document.querySelector(".hint").textContent = "No object, event or defect was found.";
  const events = new EventTable(data.events, data.event_count, (event) => open(event.time_s, event.track_id),
    ({ time_s: timeS }, button) => cut({ from_s: Math.max(0, timeS - CLIP_CONTEXT_S), to_s: timeS + CLIP_CONTEXT_S }, button));
  timeline.addEventListener("seek", ({ detail }) => goTo(detail));
  timeline.addEventListener("range", ({ detail }) => {
    byId("range").hidden = !detail;
    if (detail) byId("range-text").textContent = `${formatTime(detail[0])} to ${formatTime(detail[1])}`;
    events.show(detail);
    gallery.rangeS = detail;
    gallery.load();
  });
  byId("clear-range").addEventListener("click", () => { timeline.zoom(null); byId("zoom").textContent = "Zoom"; timeline.clearRange(); });
  byId("clip-range").addEventListener("click", () => cut({ from_s: timeline.rangeS[0], to_s: timeline.rangeS[1] }, byId("clip-range")));
  byId("zoom").addEventListener("click", () => {
    const isZoomed = byId("zoom").textContent !== "Zoom";
    timeline.zoom(isZoomed ? null : timeline.rangeS);
    byId("zoom").textContent = isZoomed ? "Zoom" : "Whole recording";
  });
  const showPosition = () => {
    if (player.frame < 0) return;
    const timeS = clock.timeS[player.frame];
    byId("clock").textContent = formatTime(timeS, 3);
    byId("frame").textContent = `frame ${player.frame}`;
    timeline.setTime(timeS);
  };
  player.addEventListener("frame", showPosition);
  showPosition();

  // Keys
  const doubtful = data.tracks.track_id.map((id, i) => ({ id, timeS: data.tracks.start_s[i], is: data.tracks.is_doubtful[i] })).filter((track) => track.is);
  byId("next-doubtful").disabled = !doubtful.length;
  byId("next-event").disabled = byId("previous-event").disabled = !data.events.length;
  const now = () => clock.timeS[Math.max(0, player.target)];
  const jumpToEvent = (step) => {
    const at = now(), frameS = clock.smallestGapS;
    const event = step > 0 ? data.events.find(({ time_s: timeS }) => timeS > at + frameS) : data.events.findLast(({ time_s: timeS }) => timeS < at - frameS);
    if (event) open(event.time_s, event.track_id);
  };
  const jumpToDoubtful = () => {
    const track = doubtful.find(({ timeS }) => timeS > now() + clock.smallestGapS) ?? doubtful[0];
    if (track) open(track.timeS, track.id);
  };
  byId("next-event").addEventListener("click", () => jumpToEvent(1));
  byId("previous-event").addEventListener("click", () => jumpToEvent(-1));
  byId("next-doubtful").addEventListener("click", jumpToDoubtful);
  byId("help").addEventListener("click", () => byId("keys").showModal());
  const jump = (seconds) => goTo(now() + seconds);
  const actions = {
    " ": () => player.toggle(), n: () => jumpToEvent(1), p: () => jumpToEvent(-1), d: jumpToDoubtful,
    b: () => switches.boxes.click(), Escape: () => { if (!drawing.isDrawing) showAll(); }, "?": () => byId("keys").showModal(),
    ArrowRight: (event) => (event.shiftKey ? jump(SECOND) : player.step(1)), ArrowLeft: (event) => (event.shiftKey ? jump(-SECOND) : player.step(-1)),
  };
  addEventListener("keydown", (event) => {
    const isTyping = event.target.closest("input, select, textarea, dialog") || (event.key === " " && event.target.closest("button, a"));
    const action = actions[event.key];
    if (!action || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action(event);
  });

  // A link may name a moment and a track.
  const query = new URLSearchParams(location.search);
  if (query.has("track")) select(Number(query.get("track")));
  player.seek(query.has("t") ? clock.frameAtTime(Number(query.get("t"))) : Math.max(0, player.frame));
}

// Without a video there is nothing to play, to draw on or to cut: the results are listed.
async function listResults() {
  const tabs = document.querySelector("[role=tablist]"), counts = new Counts(address);
  listenToTabs(tabs);
  tabs.addEventListener("tab", ({ detail }) => { if (detail === "counts") counts.load(); });
  const [index, data] = await Promise.all([requestEarly("index").then(readJson), getJson(`${address}/timeline`)]);
  new Gallery(address, index.classes);
  new EventTable(data.events, data.event_count);
}

if (byId("video")) start().catch((error) => showWait(error.message));
else listResults().catch((error) => { byId("object-count").textContent = error.message; });
