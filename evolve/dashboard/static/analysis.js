// What follows from the proposals of a run: pure functions, tested without a browser.

const FAILED = (n) => n.committed_at_s !== null && n.status !== "ok" && n.status !== "duplicate";

/** What a proposal is said to change: the proposer's word for it, or how its answer begins. */
export const editOf = (n) => n.note || n.rationale || (n.kind === "seed" ? "seed" : "");

/** A text with its numbers and quoted names masked, so that what differs in them alone falls together. */
export function masked(text) {
  return text
    .replace(/\b[ur]-b\d+-h\d+x\d+-\w+/g, "a shape")
    .replace(/'[^'\n]*'|"[^"\n]*"|`[^`\n]*`/g, "\u2026")
    .replace(/(?<![A-Za-z_])[-+]?\d[\d.,]*(?:e[-+]?\d+)?/gi, "#")
    .replace(/#(?:[x/:,\s]*#)+/g, "#")
    .replace(/\s+/g, " ")
    .trim();
}

/**
 * Failures in groups of the same status and message, the largest first; each with its first proposal as an example.
 * @returns {{status: string, cause: string, count: number, example: any, models: string[], islands: number[]}[]}
 * @param {import("./documents.js").Node[]} nodes
 */
export function failureCauses(nodes) {
  const groups = new Map();
  for (const n of nodes.filter(FAILED)) {
    const cause = masked(n.message.split("\n")[0]).slice(0, 120);
    const key = `${n.status}\n${cause}`;
    if (!groups.has(key)) {
      groups.set(key, { status: n.status, cause, count: 0, example: n, models: new Set(), islands: new Set() });
    }
    const group = groups.get(key);
    group.count++;
    if (n.model) group.models.add(n.model);
    group.islands.add(n.island);
  }
  return [...groups.values()]
    .map((g) => ({ ...g, models: [...g.models].sort(), islands: [...g.islands].sort((a, b) => a - b) }))
    .sort((a, b) => b.count - a.count || a.example.id - b.example.id);
}

export const GROUPINGS = {
  edit: { name: "edit", of: (n) => masked(n.note) || (n.rationale ? "answers in prose" : "no word for it") },
  model: { name: "model", of: (n) => n.model || "unknown" },
  parent: { name: "parent", of: (n) => (n.parent === null ? "none" : `#${n.parent}`) },
};

/**
 * What became of the proposals of each kind: how many were scored, how many beat their parent on the training shapes,
 * and what they cost. Gains are differences of training scores to the parent's.
 * @param {import("./documents.js").Node[]} nodes
 * @param {string} by
 */
export function whatPays(nodes, by) {
  const known = new Map(nodes.map((n) => [n.id, n]));
  const rows = new Map();
  for (const n of nodes) {
    if (n.kind === "seed" || n.committed_at_s === null) continue;
    const name = GROUPINGS[by].of(n);
    if (!rows.has(name)) {
      rows.set(name, { name, tried: 0, scored: 0, better: 0, gains: [], tokens: 0, cost_usd: 0, parent: n.parent });
    }
    const row = rows.get(name);
    row.tried++;
    row.tokens += n.tokens_in + n.tokens_out;
    row.cost_usd += n.cost_usd;
    if (n.status !== "ok" || !n.train) continue;
    row.scored++;
    const parent = known.get(n.parent);
    if (!parent?.train) continue;
    const gain = n.train.score - parent.train.score;
    row.gains.push(gain);
    if (gain > 0) row.better++;
  }
  return [...rows.values()]
    .map(({ gains, ...row }) => ({
      ...row,
      mean: gains.length ? gains.reduce((a, b) => a + b, 0) / gains.length : null,
      best: gains.length ? Math.max(...gains) : null,
    }))
    .sort((a, b) => b.better - a.better || b.tried - a.tried || (a.name < b.name ? -1 : 1));
}

/**
 * Tokens and dollars spent up to each commit, in order of time.
 * @param {import("./documents.js").Node[]} nodes
 */
export function spending(nodes) {
  let [tokens, usd] = [0, 0];
  return nodes
    .filter((n) => n.committed_at_s !== null)
    .toSorted((a, b) => a.committed_at_s - b.committed_at_s)
    .map((n) => {
      tokens += n.tokens_in + n.tokens_out;
      usd += n.cost_usd;
      return { seconds: n.committed_at_s, tokens, usd };
    });
}

/** Points that no other one beats on both axes: less of `x`, more of `y`; from left to right. */
export function paretoFront(points) {
  const front = [];
  for (const p of points.toSorted((a, b) => a.x - b.x || b.y - a.y)) {
    if (!front.length || p.y > front.at(-1).y) front.push(p);
  }
  return front;
}

/** Rows sorted by a value; what is missing comes last, whichever way. Ties stay in order. */
export function sorted(rows, of, descending) {
  const missing = (v) => v === null || v === undefined || v === "";
  return rows.toSorted((a, b) => {
    const [x, y] = [of(a), of(b)];
    if (missing(x) || missing(y)) return Number(missing(x)) - Number(missing(y));
    const order = x < y ? -1 : x > y ? 1 : 0;
    return descending ? -order : order;
  });
}

/**
 * Comma-separated values as RFC 4180 has them. Texts that a spreadsheet would take for a formula get a leading quote:
 * they may come from a model.
 */
export function csv(header, rows) {
  const field = (value) => {
    if (value === null || value === undefined) return "";
    if (typeof value !== "string") return String(value);
    const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return `${[header, ...rows].map((row) => row.map(field).join(",")).join("\r\n")}\r\n`;
}

/** Silence after which a run is called stalled: a minute, or four times its longest silence so far. */
function patience(nodes) {
  const times = nodes.map((n) => n.committed_at_s).filter((t) => t !== null);
  let longest = 0;
  times
    .sort((a, b) => a - b)
    .forEach((t, i) => {
      if (i) longest = Math.max(longest, t - times[i - 1]);
    });
  return Math.max(60, 4 * longest);
}

const PACE_OVER = 20;

/**
 * What a run is doing at a moment (seconds since its start): its state, how long nothing happened, and the time left
 * at the pace of its last commits; null where that cannot be known.
 * @param {import("./documents.js").Overview} overview
 * @param {import("./documents.js").Node[]} nodes
 * @param {number} seconds
 */
export function progressAt(overview, nodes, seconds) {
  if (overview.state !== "running") return { state: overview.state, silent_s: null, left_s: null };
  const silent_s = Math.max(0, seconds - overview.last_event_s);
  const state = silent_s > patience(nodes) ? "stalled" : "running";
  const commits = nodes
    .filter((n) => n.kind !== "seed" && n.committed_at_s !== null)
    .map((n) => n.committed_at_s)
    .sort((a, b) => a - b)
    .slice(-PACE_OVER - 1);
  let left_s = null;
  if (commits.length > 2 && overview.wanted > overview.proposals) {
    const pace = (commits.at(-1) - commits[0]) / (commits.length - 1);
    left_s = Math.max(0, pace * (overview.wanted - overview.proposals) - (seconds - commits.at(-1)));
    if (overview.wall_s) left_s = Math.min(left_s, Math.max(0, overview.wall_s - seconds));
  }
  return { state, silent_s, left_s };
}

/** What would go on one line of a list: programs first, then why there is none. */
export const lineOf = (n) => (n.status !== "ok" && n.message.split("\n")[0]) || editOf(n) || "\u2013";

/**
 * The roles of a proposal in its run.
 * @param {number} id
 * @param {import("./documents.js").Lineage} lineage
 */
export function rolesOf(id, lineage) {
  const roles = [];
  if (id === lineage.winner) roles.push("winner");
  if (id === lineage.leader) roles.push("leader");
  if (id !== lineage.winner && lineage.path.includes(id)) roles.push("path");
  return roles;
}
