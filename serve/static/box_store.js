// Boxes of the frames around the one that is shown, loaded in chunks and forgotten by a budget of bytes.
// serve/pages/box_chunks.py and shape_chunks.py describe the words of a row.

import { lowerBound } from "./frame_clock.js";

const ROW_WORDS = 9, SHAPE_HEADER_WORDS = 5;
const MAX_BYTES = 16e6, CHUNKS_AHEAD = 3;

export const MASK = 0, ORIENTED_BOX = 1, KEYPOINTS = 2;

export class BoxStore {
  // address: of the recording. index: as the server gives it. frameCount: of the video. onLoad: called after each chunk.
  constructor(address, index, frameCount, onLoad) {
    this.address = address;
    this.firstFrames = index.first_frames;
    this.hasShapes = index.has_shapes;
    this.frameCount = frameCount;
    this.onLoad = onLoad;
    this.chunks = new Map();
    this.bytes = 0;
    this.failedAt = new Map();
  }

  chunkNumber(frame) {
    return Math.max(0, lowerBound(this.firstFrames, frame + 1) - 1);
  }

  // The loaded chunk of a frame, or null; a missing one and those after it are requested.
  chunkOf(frame) {
    const number = this.chunkNumber(frame);
    for (let ahead = 0; ahead <= CHUNKS_AHEAD; ahead++) this.#request(number + ahead);
    return this.#loaded(number);
  }

  #loaded(number) {
    const chunk = this.chunks.get(number);
    if (!chunk?.words) return null;
    this.chunks.delete(number); // the last used are at the end of the map
    this.chunks.set(number, chunk);
    return chunk;
  }

  // Calls visit(words, position of the row) for each box of a frame; false if its chunk is not loaded.
  visitBoxes(frame, visit) {
    const chunk = this.chunks.get(this.chunkNumber(frame));
    if (!chunk?.words) return false;
    const { words, first } = chunk, offset = frame - first;
    for (let row = firstRow(words, offset); row < words.length && words[row] === offset; row += ROW_WORDS) visit(words, row);
    return true;
  }

  // Calls visit(words, position of the header) for each mask, oriented box or pose of a frame.
  visitShapes(frame, visit) {
    const chunk = this.chunks.get(this.chunkNumber(frame));
    const starts = chunk?.shapeStarts?.get(frame - chunk.first);
    for (const start of starts || []) visit(chunk.shapes, start);
  }

  async #request(number) {
    if (number >= this.firstFrames.length || this.chunks.has(number)) return;
    if (performance.now() - (this.failedAt.get(number) ?? -Infinity) < 2000) return;
    const first = this.firstFrames[number], end = this.firstFrames[number + 1] ?? this.frameCount;
    const chunk = { first, words: null };
    this.chunks.set(number, chunk);
    try {
      const [boxes, shapes] = await Promise.all([
        load(`${this.address}/boxes?first=${first}&end=${end}`),
        this.hasShapes ? load(`${this.address}/shapes?first=${first}&end=${end}`) : null,
      ]);
      if (shapes) {
        chunk.shapes = shapes;
        chunk.shapeStarts = new Map();
        for (let at = 0; at < shapes.length; at += SHAPE_HEADER_WORDS + 2 * shapes[at + 4]) {
          if (!chunk.shapeStarts.has(shapes[at])) chunk.shapeStarts.set(shapes[at], []);
          chunk.shapeStarts.get(shapes[at]).push(at);
        }
      }
      chunk.words = boxes;
      this.bytes += chunkBytes(chunk);
      this.#forget(number);
    } catch {
      this.chunks.delete(number);
      this.failedAt.set(number, performance.now()); // and asked for again a little later
    }
    this.onLoad();
  }

  #forget(kept) {
    for (const [number, chunk] of this.chunks) {
      if (this.bytes <= MAX_BYTES) return;
      if (!chunk.words || number === kept) continue;
      this.bytes -= chunkBytes(chunk);
      this.chunks.delete(number);
    }
  }
}

function chunkBytes(chunk) {
  return chunk.words.byteLength + (chunk.shapes?.byteLength ?? 0);
}

async function load(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address}: ${response.status}`);
  return new Uint16Array(await response.arrayBuffer());
}

// Position of the first row of a frame, or of a later one.
function firstRow(words, offset) {
  let low = 0, high = words.length / ROW_WORDS;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (words[middle * ROW_WORDS] < offset) low = middle + 1; else high = middle;
  }
  return low * ROW_WORDS;
}

export const IS_INTERPOLATED = 1;
export const classOf = (words, row) => words[row + 1];
export const trackOf = (words, row) => words[row + 2] + words[row + 3] * 65536;
export const confidenceOf = (words, row) => (words[row + 4] & 255) === 0 ? null : ((words[row + 4] & 255) - 1) / 254;
export const flagsOf = (words, row) => words[row + 4] >> 8;
export const edgeOf = (words, row, edge) => words[row + 5 + edge] / 65535;
