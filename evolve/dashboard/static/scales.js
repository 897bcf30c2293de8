// Colours and axes. Colours tell nothing alone: shapes, numbers or positions say the same.

import { clamp } from "./dom.js";

export function dark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

const mix = (a, b, share) => a.map((x, i) => Math.round(x + (b[i] - x) * share));
const css = (c) => `rgb(${c[0]} ${c[1]} ${c[2]})`;

function along(stops, share) {
  const at = clamp(share, 0, 1) * (stops.length - 1);
  const i = Math.min(stops.length - 2, Math.floor(at));
  return mix(stops[i], stops[i + 1], at - i);
}

/** Ink that can be read on a colour. */
export function inkOn(c) {
  const [r, g, b] = c.map((x) => (x / 255 <= 0.03928 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4));
  // Where black and white are told apart equally well, at 4.6 to 1.
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
}

const paint = (c) => ({ "background-color": css(c), color: inkOn(c) });

// Purple to orange (ColorBrewer's PuOr), which colour-blind readers tell apart; the middle is the page's own ground.
const LOSS = {
  light: [
    [236, 238, 240],
    [178, 171, 210],
    [94, 60, 153],
  ],
  dark: [
    [44, 48, 53],
    [98, 82, 150],
    [163, 141, 224],
  ],
};
const GAIN = {
  light: [
    [236, 238, 240],
    [253, 184, 99],
    [205, 92, 2],
  ],
  dark: [
    [44, 48, 53],
    [152, 90, 24],
    [250, 158, 60],
  ],
};
// Cividis, thinned out.
const CIVIDIS = [
  [0, 34, 78],
  [53, 69, 108],
  [102, 105, 112],
  [148, 142, 119],
  [200, 184, 102],
  [254, 232, 56],
];
const BLUES = {
  light: [
    [236, 238, 240],
    [146, 197, 222],
    [5, 90, 150],
  ],
  dark: [
    [44, 48, 53],
    [30, 92, 140],
    [112, 190, 240],
  ],
};

const LOG_SPAN = Math.log(1.25);

const themed = (stops) => stops[dark() ? "dark" : "light"];

/** Speed-up: 1 is neutral, 1.25x and 0.8x are the ends. */
export function speedupColour(x) {
  const share = Math.log(x) / LOG_SPAN;
  return paint(along(themed(share < 0 ? LOSS : GAIN), Math.abs(share)));
}

/** Speed-up still to be had: 1 is neutral, 1.25x the end. */
export const leftColour = (x) => paint(along(themed(BLUES), Math.log(x) / LOG_SPAN));

/** Splits, from 1 to 128, on a logarithmic scale. */
export const splitsColour = (x) => paint(along(CIVIDIS, Math.log2(Math.max(1, x)) / 7));

/** A share from 0 to 1. */
export const shareColour = (x) => paint(along(CIVIDIS, x));

/** Round values between two ends, about `count` of them. */
export function ticks(low, high, count = 5) {
  if (!(high > low)) return [low];
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((m) => m >= raw);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++)
    found.push(Number((k * step).toPrecision(12)));
  return found;
}

/** Decimals that tell ticks apart. */
export function decimals(values) {
  const step = values.length > 1 ? Math.min(...values.slice(1).map((v, i) => v - values[i])) : Math.abs(values[0] ?? 1);
  for (let digits = 0; digits < 8; digits++) {
    if (Math.abs(step * 10 ** digits - Math.round(step * 10 ** digits)) < 1e-6) return digits;
  }
  return 8;
}

/** Powers of two between two ends. */
export function powers(low, high) {
  const found = [];
  for (let p = 2 ** Math.floor(Math.log2(low)); p <= high * 1.0001; p *= 2) if (p >= low * 0.9999) found.push(p);
  return found;
}

// Outcomes in groups, each with a colour of Okabe and Ito's set and a mark of its own.
export const GROUPS = [
  { key: "ok", name: "scored", mark: "\u25cf", statuses: ["ok"] },
  { key: "duplicate", name: "repeats", mark: "\u25cb", statuses: ["duplicate"] },
  { key: "refused", name: "refused", mark: "\u25b2", statuses: ["no_answer", "frozen_code", "syntax", "language"] },
  {
    key: "broke",
    name: "broke",
    mark: "\u25a0",
    statuses: ["raised", "bad_answer", "timeout", "memory", "forbidden", "crashed"],
  },
  { key: "launch", name: "bad launch", mark: "\u25c6", statuses: ["unrecorded", "unsafe", "wrong", "unstable"] },
  { key: "none", name: "no proposal", mark: "\u2715", statuses: ["proposer_failed"] },
  { key: "open", name: "under way", mark: "\u25cc", statuses: ["asked", "answered"] },
];
const BY_STATUS = new Map(GROUPS.flatMap((g) => g.statuses.map((status) => [status, g])));
export const groupOf = (status) => BY_STATUS.get(status) ?? GROUPS[3];

export const cssColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
