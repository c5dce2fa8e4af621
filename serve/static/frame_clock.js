// Which frame a video shows: looked up in the PTS list of its file, never computed from a frame rate.

export class FrameClock {
  // ptsS: PTS of each frame as the browser gives it in mediaTime. timeS: time of each frame on the source's clock.
  constructor(ptsS, timeS) {
    this.ptsS = ptsS;
    this.timeS = timeS;
    this.count = ptsS.length;
    let smallest = Infinity;
    for (let i = 1; i < ptsS.length; i++) {
      const gap = ptsS[i] - ptsS[i - 1];
      if (gap > 1e-6 && gap < smallest) smallest = gap;
    }
    this.smallestGapS = Number.isFinite(smallest) ? smallest : 0.04;
  }

  // The frame whose PTS is within half the smallest gap of mediaTime; -1 if there is none.
  frameAt(mediaTime) {
    const after = lowerBound(this.ptsS, mediaTime);
    let nearest = after;
    if (after >= this.count || (after > 0 && mediaTime - this.ptsS[after - 1] <= this.ptsS[after] - mediaTime)) nearest = after - 1;
    if (nearest < 0 || Math.abs(this.ptsS[nearest] - mediaTime) > this.smallestGapS / 2) return -1;
    return nearest;
  }

  // The frame that is shown at a position of the player: the last one that has begun.
  frameContaining(currentTime) {
    return Math.max(0, lowerBound(this.ptsS, currentTime + 1e-6) - 1);
  }

  // Position to seek to for a frame: its middle, because a seek to its PTS may end on the frame before.
  seekTime(frame) {
    return this.ptsS[frame] + this.smallestGapS / 2;
  }

  // The last frame that is not after a time on the source's clock.
  frameAtTime(timeS) {
    return Math.min(this.count - 1, Math.max(0, lowerBound(this.timeS, timeS + 1e-6) - 1));
  }
}

// Index of the first value that is not less than another.
export function lowerBound(values, value) {
  let low = 0, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < value) low = middle + 1; else high = middle;
  }
  return low;
}
