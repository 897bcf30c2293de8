// Where documents come from: blocks in this file (report), or the server that sent it (live). Same documents.

import { readBlock, unpackCandidates } from "./unpack.js";

const KEPT = 200;

class ReportSource {
  live = false;
  state = "report";

  async open() {
    const index = await readBlock("data-index");
    this.version = index.version;
    this.entries = new Map(index.runs.map((entry, i) => [entry.name, { ...entry, number: i }]));
    this.runs = [...this.entries.keys()];
  }

  async overview(run) { return this.entries.get(run).overview; }
  async lineage(run) { return this.entries.get(run).lineage; }
  async grid(run) { return this.entries.get(run).grid; }

  async shapes(run) {
    const entry = this.entries.get(run);
    entry.shapes ??= readBlock(`data-shapes-${entry.number}`);
    return entry.shapes;
  }

  async candidate(run, id) {
    const entry = this.entries.get(run);
    entry.find ??= readBlock(`data-candidates-${entry.number}`).then((packed) =>
      unpackCandidates(run, packed, new Map(entry.lineage.nodes.map((n) => [n.id, n]))));
    return (await entry.find)(id);
  }

  follow() {}
}

class LiveSource {
  live = true;
  state = "connecting";
  known = new Map();

  async open() {
    const index = await this.get("api/runs");
    this.version = index.version;
    this.runs = index.runs;
  }

  async get(path) {
    const answer = await fetch(path);
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${(await answer.text()).slice(0, 200)}`);
    return answer.json();
  }

  /** A document, asked for once; a proposal under way is asked for again. */
  kept(path, keep = () => true) {
    if (!this.known.has(path)) {
      if (this.known.size > KEPT) this.known.delete(this.known.keys().next().value);
      const answer = this.get(path);
      this.known.set(path, answer);
      answer.then((d) => { if (!keep(d)) this.known.delete(path); }, () => this.known.delete(path));
    }
    return this.known.get(path);
  }

  path(run, rest) { return `api/run/${encodeURIComponent(run)}/${rest}`; }
  overview(run) { return this.kept(this.path(run, "overview")); }
  lineage(run) { return this.kept(this.path(run, "lineage")); }
  grid(run) { return this.kept(this.path(run, "grid")); }
  shapes(run) { return this.kept(this.path(run, "shapes"), (d) => d.cases.length); }
  timeline(run) { return this.path(run, "timeline.json"); }

  candidate(run, id) {
    return this.kept(this.path(run, `candidate/${id}`), (d) => d.node.committed_at_s !== null);
  }

  /** Hear of changes of a run; the browser resumes by itself with the last event's id. */
  follow(run, heard) {
    this.stream?.close();
    const report = (state) => { this.state = state; heard(null); };
    const stream = new EventSource(this.path(run, "events"));
    this.stream = stream;
    stream.onopen = () => report("live");
    stream.onerror = () => report(stream.readyState === EventSource.CLOSED ? "lost" : "reconnecting");
    stream.addEventListener("change", async (event) => {
      const change = JSON.parse(event.data);
      change.anew = await this.apply(run, change);
      heard(change);
    });
  }

  /** Bring kept documents up to date; whether they have to be asked for anew instead. */
  async apply(run, change) {
    this.known.set(this.path(run, "overview"), Promise.resolve(change.overview));
    this.known.delete(this.path(run, "grid"));
    if (change.overview.meta.measure === "live") {
      // What is known of a shape grows with what other programs decide.
      const stale = [...this.known.keys()].filter((k) => k === this.path(run, "shapes") || k.startsWith(this.path(run, "candidate/")));
      for (const path of stale) this.known.delete(path);
    }
    const path = this.path(run, "lineage");
    if (!this.known.has(path)) return false;
    const lineage = await this.known.get(path);
    const before = lineage.nodes.slice(0, change.since);
    if (before.length < change.since || before.some((n) => n.committed_at_s === null)) {
      // Something lies between what was read and what is told now: read anew.
      this.known.delete(path);
      return true;
    }
    for (const node of change.nodes) lineage.nodes[node.id] = node;
    const { winner, leader, path: way, migrations } = change;
    Object.assign(lineage, { winner, leader, path: way, migrations });
    return false;
  }
}

export async function openSource() {
  const mode = document.querySelector('meta[name="evosplit-mode"]').content;
  const source = mode === "live" ? new LiveSource() : new ReportSource();
  await source.open();
  return source;
}
