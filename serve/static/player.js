// Plays a video on a canvas: each presented frame and what is drawn over it are painted in one callback, by the frame's
// own PTS. Where a browser cannot tell which frame it shows, the drawing is left out while the video plays.

// The picture that a video shows now, with its PTS; null where a browser has no WebCodecs, as on http://<ip>.
function copyPicture(video) {
  try { return new VideoFrame(video); } catch { return null; }
}

const MAX_CANVAS_PX = 1920, MAX_REPEATS = 6;
export const RATES = [0.25, 0.5, 1, 2, 4];

export class Player extends EventTarget {
  // paint(context, width, height, frame): draws over a frame; frame is -1 if it is unknown.
  constructor(video, canvas, clock, paint) {
    super();
    Object.assign(this, { video, canvas, clock, paint });
    this.context = canvas.getContext("2d", { alpha: false });
    this.frame = -1; // the frame on the canvas
    this.target = 0; // the frame last asked for
    this.isExact = "requestVideoFrameCallback" in HTMLVideoElement.prototype && !new URLSearchParams(location.search).has("no-rvfc");
    this.drawMs = new Float64Array(600);
    this.drawCount = 0;
    if (this.isExact) this.#listen(); else this.#listenWithout();
    video.addEventListener("seeked", () => { if (this.pendingSeek !== undefined) this.#seekPending(); else this.#checkSeek(); });
    // A browser may first take a video for shorter than it is, and stop a seek at the end that it knows.
    video.addEventListener("durationchange", () => { if (!this.isPlaying && this.target !== this.frame) this.seek(this.target); });
    for (const name of ["play", "pause", "ended", "ratechange"]) video.addEventListener(name, () => this.dispatchEvent(new Event("state")));
    new ResizeObserver(() => { this.#resize(); this.redraw(); }).observe(canvas);
  }

  get isPlaying() { return !this.video.paused && !this.video.ended; }

  #listen() {
    const present = (_, metadata) => {
      this.video.requestVideoFrameCallback(present);
      // A late callback finds a newer picture than the one that it reports: a copy of the picture has its own time.
      const copy = copyPicture(this.video);
      const frame = copy ? this.clock.frameAt(copy.timestamp / 1e6) : -1;
      if (frame >= 0) this.#draw(frame, copy);
      else this.#draw(this.clock.frameAt(metadata.mediaTime));
      copy?.close();
    };
    this.video.requestVideoFrameCallback(present);
  }

  // Without requestVideoFrameCallback: the picture alone while playing; after a pause, a seek to the middle of the frame.
  #listenWithout() {
    const follow = () => { if (this.isPlaying) { this.#draw(-1); requestAnimationFrame(follow); } };
    this.video.addEventListener("play", follow);
    this.video.addEventListener("pause", () => this.seek(this.clock.frameContaining(this.video.currentTime)));
    const settle = () => requestAnimationFrame(() => requestAnimationFrame(() => {
      if (!this.isPlaying && !this.video.seeking) this.#draw(this.clock.frameContaining(this.video.currentTime));
    }));
    this.video.addEventListener("seeked", settle);
    this.video.addEventListener("loadeddata", settle);
  }

  #resize() {
    const { video, canvas } = this;
    if (!video.videoWidth) return;
    const shown = canvas.clientWidth * devicePixelRatio || video.videoWidth;
    const width = Math.round(Math.min(video.videoWidth > shown ? shown : Math.max(shown, video.videoWidth), MAX_CANVAS_PX));
    const height = Math.round(width * video.videoHeight / video.videoWidth);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  }

  #draw(frame, picture = this.video) {
    if (this.frame < 0) this.#resize();
    const { context, canvas } = this;
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    const startMs = performance.now(); // the script alone: the picture is the work of the browser
    this.frame = frame;
    this.paint(context, canvas.width, canvas.height, frame);
    canvas.dataset.frame = frame;
    if (frame >= 0) {
      if (this.isPlaying) this.target = frame;
      this.dispatchEvent(new Event("frame"));
    }
    this.drawMs[this.drawCount++ % this.drawMs.length] = performance.now() - startMs;
  }

  // Paints the shown frame again, because what is drawn over it has changed.
  redraw() {
    if (this.video.readyState >= 2 && !this.video.seeking && this.canvas.width) this.#draw(this.frame);
  }

  // Shows a frame; of several seeks that follow each other fast, only the last is carried out.
  seek(frame) {
    this.target = Math.min(this.clock.count - 1, Math.max(0, frame));
    this.repeatCount = 0;
    if (this.video.seeking) { this.pendingSeek = this.target; return; }
    this.video.currentTime = this.clock.seekTime(this.target);
  }

  // A seek that presents no new frame, or another one, is repeated to a slightly different place in the frame.
  #checkSeek() {
    clearTimeout(this.checkTimer);
    this.checkTimer = setTimeout(() => {
      if (this.isPlaying || this.video.seeking || this.frame === this.target || this.repeatCount >= MAX_REPEATS) return;
      this.repeatCount++;
      this.video.currentTime = this.clock.seekTime(this.target) + (this.repeatCount % 2 ? 1 : -1) * this.clock.smallestGapS / 8;
    }, 300);
  }

  #seekPending() {
    const frame = this.pendingSeek;
    this.pendingSeek = undefined;
    if (frame !== this.frame) this.video.currentTime = this.clock.seekTime(frame);
  }

  step(count) {
    if (this.isPlaying) { this.video.pause(); this.target = Math.max(0, this.frame); }
    this.seek(this.target + count);
  }

  toggle() {
    if (this.isPlaying) this.video.pause();
    else this.video.play().catch(() => {}); // a browser may refuse until a person has clicked
  }

  setRate(rate) { this.video.playbackRate = rate; }
}
