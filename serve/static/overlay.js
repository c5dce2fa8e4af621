// Draws what the tables know about a frame: boxes, trails, masks, keypoints, labels, zones and lines.

import { classOf, confidenceOf, edgeOf, flagsOf, IS_INTERPOLATED, KEYPOINTS, MASK, trackOf } from "./box_store.js";
import { colourOf } from "./colours.js";

const TRAIL_S = 2, TRAIL_POINTS = 24, MAX_LABELS = 60;
// Pairs of keypoints of a COCO person that are joined.
const SKELETON = [[5, 7], [7, 9], [6, 8], [8, 10], [5, 6], [5, 11], [6, 12], [11, 12], [11, 13], [13, 15], [12, 14], [14, 16], [0, 5], [0, 6]];

export class Overlay {
  constructor(store, clock, classes, shapes) {
    Object.assign(this, { store, clock, classes, shapes });
    this.layers = { boxes: true, labels: true, trails: true, masks: true, keypoints: true, zones: true };
    this.hiddenClasses = new Set();
    this.hiddenTracks = new Set();
    this.onlyTrack = null;
    this.selectedTrack = null;
    this.minConfidence = 0;
    this.isLoading = false;
    this.widths = new Map();
  }

  isVisible(words, row) {
    const track = trackOf(words, row), confidence = confidenceOf(words, row);
    if (this.onlyTrack !== null) return track === this.onlyTrack;
    return !this.hiddenClasses.has(classOf(words, row)) && !this.hiddenTracks.has(track)
      && (confidence === null || confidence >= this.minConfidence);
  }

  // The smallest visible box at a point, given in fractions of the frame; null if there is none.
  trackAt(x, y, frame) {
    let track = null, smallest = Infinity;
    if (frame >= 0) this.store.visitBoxes(frame, (words, row) => {
      const [left, top, right, bottom] = [0, 1, 2, 3].map((edge) => edgeOf(words, row, edge)), area = (right - left) * (bottom - top);
      if (this.isVisible(words, row) && x >= left && x <= right && y >= top && y <= bottom && area < smallest) { smallest = area; track = trackOf(words, row); }
    });
    return track;
  }

  paint(context, width, height, frame) {
    const unit = Math.max(1, width / 960);
    this.isLoading = false;
    if (this.layers.zones) this.#paintZones(context, width, height, unit);
    if (frame < 0) return;
    if (!this.store.chunkOf(frame)) { this.isLoading = true; return; }
    const boxes = [];
    this.store.visitBoxes(frame, (words, row) => { if (this.isVisible(words, row)) boxes.push(words, row); });
    if (this.layers.masks || this.layers.keypoints) this.#paintShapes(context, width, height, frame, unit, boxes);
    if (this.layers.trails) this.#paintTrails(context, width, height, frame, unit, boxes);
    if (this.layers.boxes) this.#paintBoxes(context, width, height, unit, boxes);
    if (this.layers.labels && this.layers.boxes) this.#paintLabels(context, width, height, unit, boxes);
  }

  #paintBoxes(context, width, height, unit, boxes) {
    // One path per class and kind of line: a stroke is what costs time.
    const paths = new Map();
    for (let i = 0; i < boxes.length; i += 2) {
      const words = boxes[i], row = boxes[i + 1], isDashed = flagsOf(words, row) & IS_INTERPOLATED;
      const isSelected = trackOf(words, row) === this.selectedTrack;
      const key = classOf(words, row) * 4 + (isDashed ? 1 : 0) + (isSelected ? 2 : 0);
      if (!paths.has(key)) paths.set(key, new Path2D());
      const left = edgeOf(words, row, 0) * width, top = edgeOf(words, row, 1) * height;
      paths.get(key).rect(left, top, edgeOf(words, row, 2) * width - left, edgeOf(words, row, 3) * height - top);
    }
    for (const [key, path] of paths) {
      context.setLineDash(key & 1 ? [5 * unit, 4 * unit] : []);
      context.lineWidth = (key & 2 ? 4 : 2) * unit;
      context.strokeStyle = colourOf(key >> 2);
      context.stroke(path);
    }
    context.setLineDash([]);
  }

  #paintLabels(context, width, height, unit, boxes) {
    const isCrowded = boxes.length / 2 > MAX_LABELS, size = Math.round(12 * unit);
    context.font = `600 ${size}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    for (let i = 0; i < boxes.length; i += 2) {
      const words = boxes[i], row = boxes[i + 1], track = trackOf(words, row);
      if (isCrowded && track !== this.selectedTrack) continue;
      const confidence = confidenceOf(words, row);
      const text = `${this.classes[classOf(words, row)]} ${track}${confidence === null || width < 600 ? "" : ` ${Math.round(confidence * 100)}%`}`;
      const labelWidth = this.#width(context, text, size) + 8 * unit, labelHeight = size + 6 * unit;
      const left = Math.min(edgeOf(words, row, 0) * width - unit, width - labelWidth);
      const top = Math.max(0, edgeOf(words, row, 1) * height - labelHeight);
      context.fillStyle = colourOf(classOf(words, row));
      context.fillRect(left, top, labelWidth, labelHeight);
      context.fillStyle = "#0b0f14";
      context.fillText(text, left + 4 * unit, top + labelHeight / 2);
    }
  }

  #width(context, text, size) {
    const key = `${size} ${text}`;
    if (this.widths.size > 5000) this.widths.clear();
    if (!this.widths.has(key)) this.widths.set(key, context.measureText(text).width);
    return this.widths.get(key);
  }

  #paintTrails(context, width, height, frame, unit, boxes) {
    const tracks = new Map();
    for (let i = 0; i < boxes.length; i += 2) tracks.set(trackOf(boxes[i], boxes[i + 1]), { of: classOf(boxes[i], boxes[i + 1]), points: [] });
    const first = this.clock.frameAtTime(this.clock.timeS[frame] - TRAIL_S);
    const stride = Math.max(1, Math.ceil((frame - first) / TRAIL_POINTS));
    for (let past = frame; past >= first; past -= stride) {
      this.store.visitBoxes(past, (words, row) => tracks.get(trackOf(words, row))?.points.push(
        (edgeOf(words, row, 0) + edgeOf(words, row, 2)) / 2 * width, edgeOf(words, row, 3) * height));
    }
    const paths = new Map();
    for (const { of, points } of tracks.values()) {
      if (points.length < 4) continue;
      if (!paths.has(of)) paths.set(of, new Path2D());
      const path = paths.get(of);
      path.moveTo(points[0], points[1]);
      for (let i = 2; i < points.length; i += 2) path.lineTo(points[i], points[i + 1]);
    }
    context.lineWidth = 2 * unit;
    context.globalAlpha = 0.7;
    for (const [of, path] of paths) { context.strokeStyle = colourOf(of); context.stroke(path); }
    context.globalAlpha = 1;
  }

  #paintShapes(context, width, height, frame, unit, boxes) {
    const visible = new Set();
    for (let i = 0; i < boxes.length; i += 2) visible.add(trackOf(boxes[i], boxes[i + 1]) % 65536);
    this.store.visitShapes(frame, (words, at) => {
      const kind = words[at + 2], count = words[at + 4], start = at + 5;
      if (!visible.has(words[at + 3]) || !(kind === KEYPOINTS ? this.layers.keypoints : this.layers.masks)) return;
      const x = (i) => words[start + 2 * i] / 65534 * width, y = (i) => words[start + 2 * i + 1] / 65534 * height;
      const isMissing = (i) => words[start + 2 * i] === 65535;
      context.strokeStyle = context.fillStyle = colourOf(words[at + 1]);
      context.lineWidth = 2 * unit;
      context.beginPath();
      if (kind === KEYPOINTS) {
        if (count === 17) for (const [a, b] of SKELETON) if (!isMissing(a) && !isMissing(b)) { context.moveTo(x(a), y(a)); context.lineTo(x(b), y(b)); }
        context.stroke();
        for (let i = 0; i < count; i++) if (!isMissing(i)) context.fillRect(x(i) - 2 * unit, y(i) - 2 * unit, 4 * unit, 4 * unit);
        return;
      }
      for (let i = 0; i < count; i++) context.lineTo(x(i), y(i));
      context.closePath();
      if (kind === MASK) { context.globalAlpha = 0.35; context.fill(); context.globalAlpha = 1; } else context.stroke();
    });
  }

  #paintZones(context, width, height, unit) {
    for (const shape of this.shapes) paintShape(context, shape, width, height, unit);
  }
}

// Draws a zone or a line with its name; the arrow of a line shows the direction "in".
export function paintShape(context, shape, width, height, unit) {
  const points = shape.points.map(([x, y]) => [x * width, y * height]);
  if (!points.length) return;
  context.strokeStyle = shape.isDrawn ? "#ffffff" : "#e5e7eb";
  context.fillStyle = "rgb(255 255 255 / 0.12)";
  context.lineWidth = 2 * unit;
  context.beginPath();
  for (const [x, y] of points) context.lineTo(x, y);
  if (shape.kind === "zone" && !shape.isUnfinished) { context.closePath(); context.fill(); }
  context.stroke();
  if (shape.kind === "line" && points.length > 1) paintArrow(context, points, unit);
  if (shape.isDrawn) for (const [x, y] of points) { context.fillStyle = "#ffffff"; context.fillRect(x - 3 * unit, y - 3 * unit, 6 * unit, 6 * unit); }
  if (!shape.name) return;
  const size = Math.round(12 * unit), [x, y] = shape.kind === "zone" ? points[0] : points[points.length - 1];
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  const labelWidth = context.measureText(shape.name).width + 8 * unit, labelHeight = size + 6 * unit;
  const left = Math.min(Math.max(0, x + 4 * unit), width - labelWidth), top = Math.min(Math.max(0, y + 4 * unit), height - labelHeight);
  context.fillStyle = "rgb(15 20 26 / 0.75)";
  context.fillRect(left, top, labelWidth, labelHeight);
  context.fillStyle = "#ffffff";
  context.fillText(shape.name, left + 4 * unit, top + labelHeight / 2);
}

function paintArrow(context, points, unit) {
  let longest = 0, from = points[0], to = points[1];
  for (let i = 0; i + 1 < points.length; i++) {
    const length = Math.hypot(points[i + 1][0] - points[i][0], points[i + 1][1] - points[i][1]);
    if (length > longest) { longest = length; from = points[i]; to = points[i + 1]; }
  }
  if (!longest) return;
  // From the left of the line's direction to its right; y points down.
  const right = [-(to[1] - from[1]) / longest, (to[0] - from[0]) / longest], along = [right[1], -right[0]];
  const middle = [(from[0] + to[0]) / 2, (from[1] + to[1]) / 2];
  const at = (a, b) => [middle[0] + right[0] * a * unit + along[0] * b * unit, middle[1] + right[1] * a * unit + along[1] * b * unit];
  context.beginPath();
  context.moveTo(...at(-14, 0)); context.lineTo(...at(20, 0));
  context.moveTo(...at(12, -6)); context.lineTo(...at(20, 0)); context.lineTo(...at(12, 6));
  context.stroke();
}
