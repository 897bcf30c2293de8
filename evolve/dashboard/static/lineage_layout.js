// Where everything lies in the lineage's picture: a lane per island, proposals from left to right, scores upwards.

import { clamp } from "./dom.js";

/** Height of the strip below each lane for proposals without a score. */
export const STRIP = 26;
export const LEFT = 62;
export const RIGHT = 18;
const TOP = 14;
const GAP = 18;
const BOTTOM = 22;

/**
 * Where proposals lie in pixels; `zoom` is {x0, x1, y0, y1} in proposals and scores.
 * `place` gives [x, y, beyond]: `beyond` is -1 or 1 for a score below or above the visible range. Such a proposal lies
 * at the edge of its lane, and must not be drawn as if it had the score there.
 * @param {import("./documents.js").Lineage} lineage
 * @param {{x0: number, x1: number, y0: number, y1: number}} zoom
 * @param {number} width
 * @param {number} height
 */
export function layout(lineage, zoom, width, height) {
  const lane = (height - TOP - BOTTOM - GAP * (lineage.islands - 1)) / lineage.islands;
  const tall = lane - STRIP - 4;
  const x = (id) => LEFT + ((id - zoom.x0) / (zoom.x1 - zoom.x0)) * (width - LEFT - RIGHT);
  const top = (island) => TOP + island * (lane + GAP);
  const place = (n) => {
    const y0 = top(n.island);
    if (!n.train) return [x(n.id), y0 + lane - STRIP / 2, 0];
    const share = (n.train.score - zoom.y0) / (zoom.y1 - zoom.y0);
    return [x(n.id), y0 + tall * (1 - clamp(share, 0, 1)), share < 0 ? -1 : share > 1 ? 1 : 0];
  };
  const back = (px) => zoom.x0 + ((px - LEFT) / (width - LEFT - RIGHT)) * (zoom.x1 - zoom.x0);
  const score = (py) => {
    const island = clamp(Math.floor((py - TOP) / (lane + GAP)), 0, lineage.islands - 1);
    return zoom.y1 - ((py - top(island)) / tall) * (zoom.y1 - zoom.y0);
  };
  return { x, top, lane, tall, place, back, score, width, height };
}

const scoresOf = (lineage) =>
  lineage.nodes
    .filter((n) => n.train)
    .map((n) => n.train.score)
    .sort((a, b) => a - b);

/**
 * The whole of a run: all proposals, and scores from a little below stock (or the weakest) to the best.
 * @param {import("./documents.js").Lineage} lineage
 */
export function wholeOf(lineage) {
  const scores = scoresOf(lineage);
  const best = scores.at(-1) ?? 1;
  const low = Math.max(scores[0] ?? 0.9, Math.min(1, best) - Math.max(0.004, 0.35 * (best - 1)));
  const room = Math.max(1e-4, 0.05 * (best - low));
  return { x0: -1, x1: Math.max(10, lineage.nodes.length), y0: low - room, y1: best + room };
}

/**
 * The farthest that a reader may look: every proposal and every score, and no empty space beyond.
 * @param {import("./documents.js").Lineage} lineage
 */
export function boundsOf(lineage) {
  const whole = wholeOf(lineage);
  const lowest = scoresOf(lineage)[0] ?? whole.y0;
  return { ...whole, y0: Math.min(whole.y0, lowest - 0.05 * (whole.y1 - lowest)) };
}

/** The nearest zoom within bounds: moved where it fits, made smaller where it does not. */
export function within(zoom, bounds) {
  const along = (low, high, from, to) => {
    const span = Math.min(high - low, to - from);
    const start = clamp(low, from, to - span);
    return [start, start + span];
  };
  const [x0, x1] = along(zoom.x0, zoom.x1, bounds.x0, bounds.x1);
  const [y0, y1] = along(zoom.y0, zoom.y1, bounds.y0, bounds.y1);
  return { x0, x1, y0, y1 };
}

export const zoomText = (z) =>
  [z.x0, z.x1]
    .map((v) => v.toFixed(1))
    .concat([z.y0, z.y1].map((v) => v.toFixed(5)))
    .join("_");

/** A zoom from an address; the whole where the address names none. */
export function zoomFrom(text, lineage) {
  const [x0, x1, y0, y1] = (text ?? "").split("_").map(Number);
  return x1 > x0 && y1 > y0 ? within({ x0, x1, y0, y1 }, boundsOf(lineage)) : wholeOf(lineage);
}
