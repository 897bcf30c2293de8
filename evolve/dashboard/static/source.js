// Where documents come from: blocks in this file (report), or the server that sent it (live). Same documents.

import { readBlock, searchCandidates, unpackCandidates } from "./unpack.js";

/** @typedef {import("./types.js").Source} Source */

const KEPT = 200;

/** How long between two looks at the server; a page that nobody sees does not look. */
const LOOK_MS = 700;

/** @implements {Source} */
class ReportSource {
  live = false;
  connection = "report";

  async open() {
    const index = await readBlock("data-index");
    this.version = index.version;
    this.lines = index.lines;
    this.entries = new Map(index.runs.map((entry, i) => [entry.name, { ...entry, number: i }]));
    this.runs = [...this.entries.keys()];
  }

  async allRuns() {
    return this.lines;
  }
  async overview(run) {
    return this.entries.get(run).overview;
  }
  async lineage(run) {
    return this.entries.get(run).lineage;
  }
  async grid(run) {
    return this.entries.get(run).grid;
  }
  async story(run) {
    return this.entries.get(run).story;
  }

  async shapes(run) {
    const entry = this.entries.get(run);
    entry.shapes ??= readBlock(`data-shapes-${entry.number}`);
    return entry.shapes;
  }

  packed(run) {
    const entry = this.entries.get(run);
    entry.packed ??= readBlock(`data-candidates-${entry.number}`);
    return entry.packed;
  }

  async candidate(run, id) {
    const entry = this.entries.get(run);
    entry.find ??= this.packed(run).then((packed) =>
      unpackCandidates(run, packed, new Map(entry.lineage.nodes.map((n) => [n.id, n]))),
    );
    return (await entry.find)(id);
  }

  /** Proposals whose program, answer or message holds a text, whatever its case. */
  async search(run, text) {
    return searchCandidates(await this.packed(run), text);
  }

  follow() {}
}

/** @implements {Source} */
class LiveSource {
  live = true;
  connection = "connecting";
  /** What the server's clock is ahead of this one's, in seconds. */
  clockAhead = 0;
  known = new Map();
  /** Lines of all runs, as they were read last. */
  seen = new Map();

  async open() {
    const index = await this.get("api/index");
    this.version = index.version;
    this.runs = index.runs;
    document.addEventListener("visibilitychange", () => this.look());
  }

  async get(path) {
    const answer = await fetch(path);
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${(await answer.text()).slice(0, 200)}`);
    return answer.json();
  }

  /** A document, asked for once; a proposal under way is asked for again. */
  kept(path, keep = (_document) => true) {
    if (!this.known.has(path)) {
      if (this.known.size > KEPT) this.known.delete(this.known.keys().next().value);
      const answer = this.get(path);
      this.known.set(path, answer);
      const forget = () => this.known.get(path) === answer && this.known.delete(path);
      answer.then((d) => keep(d) || forget(), forget);
    }
    return this.known.get(path);
  }

  path(run, rest) {
    return `api/run/${encodeURIComponent(run)}/${rest}`;
  }
  /** All runs in short; what is known of those that went on meanwhile is forgotten, but of the one that is followed. */
  async allRuns() {
    const found = await this.get("api/runs");
    for (const line of found.runs) {
      const text = JSON.stringify(line);
      if (this.seen.get(line.run) !== text && line.run !== this.followed?.run) {
        const prefix = this.path(line.run, "");
        for (const path of [...this.known.keys()]) if (path.startsWith(prefix)) this.known.delete(path);
      }
      this.seen.set(line.run, text);
    }
    return found;
  }
  overview(run) {
    return this.kept(this.path(run, "overview"));
  }
  lineage(run) {
    return this.kept(this.path(run, "lineage"));
  }
  grid(run) {
    return this.kept(this.path(run, "grid"));
  }
  story(run) {
    return this.kept(this.path(run, "story"));
  }
  shapes(run) {
    return this.kept(this.path(run, "shapes"), (d) => d.cases.length > 0);
  }
  timeline(run) {
    return this.path(run, "timeline.json");
  }

  candidate(run, id) {
    return this.kept(this.path(run, `candidate/${id}`), (d) => d.node.committed_at_s !== null);
  }

  async search(run, text) {
    return (await this.get(this.path(run, `search?text=${encodeURIComponent(text)}`))).ids;
  }

  /** Hear of changes of a run, and of runs that come; `heard` is told whether the run or the list of runs changed. */
  follow(run, heard) {
    this.followed = { run, heard, revision: "" };
    this.look();
  }

  /** Ask what changed. Short questions instead of an open stream: browsers allow six connections to a server. */
  async look() {
    clearTimeout(this.timer);
    const followed = this.followed;
    if (!followed || document.visibilityState !== "visible") return;
    const { run, heard } = followed;
    let news = { run: false, runs: false };
    try {
      const query = run && new URLSearchParams({ since: await this.settled(run), revision: followed.revision });
      const answer = await this.get(run ? this.path(run, `changes?${query}`) : "api/index");
      if (followed !== this.followed) return;
      if (answer.now) this.clockAhead = answer.now - Date.now() / 1000;
      news.runs = answer.runs.join("\n") !== this.runs.join("\n");
      this.runs = answer.runs;
      news.back = this.connection !== "live" && this.connection !== "connecting";
      this.connection = "live";
      if (answer.change) {
        followed.revision = answer.change.revision;
        news.run = true;
        await this.apply(run, answer.change);
      }
    } catch (error) {
      if (followed !== this.followed) return;
      news = { run: false, runs: false };
      this.connection = /: 404 /.test(error.message) ? "lost" : "reconnecting";
    }
    heard(news);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), LOOK_MS);
  }

  /** Every proposal below it is known and will not change. */
  async settled(run) {
    const path = this.path(run, "lineage");
    if (!this.known.has(path)) return "999999999";
    const { nodes } = await this.known.get(path);
    const open = nodes.findIndex((n) => n.committed_at_s === null);
    return String(open < 0 ? nodes.length : open);
  }

  /** Bring kept documents up to date, and forget those that have to be asked for anew. */
  async apply(run, change) {
    this.known.set(this.path(run, "overview"), Promise.resolve(change.overview));
    this.known.delete(this.path(run, "grid"));
    this.known.delete(this.path(run, "story"));
    if (change.overview.meta.measure === "live") {
      // What is known of a shape grows with what other programs decide.
      for (const path of [...this.known.keys()]) {
        if (path === this.path(run, "shapes") || path.startsWith(this.path(run, "candidate/"))) this.known.delete(path);
      }
    }
    const path = this.path(run, "lineage");
    if (!this.known.has(path)) return;
    const lineage = await this.known.get(path);
    const before = lineage.nodes.slice(0, change.since);
    if (before.length < change.since || before.some((n) => n.committed_at_s === null)) {
      // Something lies between what was read and what is told now: read anew.
      this.known.delete(path);
      return;
    }
    for (const node of change.nodes) lineage.nodes[node.id] = node;
    const { winner, leader, path: ancestors, migrations } = change;
    Object.assign(lineage, { winner, leader, path: ancestors, migrations });
  }
}

/** @returns {Promise<import("./types.js").Source>} */
export async function openSource() {
  const mode = document.querySelector('meta[name="evosplit-mode"]').getAttribute("content");
  const source = mode === "live" ? new LiveSource() : new ReportSource();
  await source.open();
  return source;
}
