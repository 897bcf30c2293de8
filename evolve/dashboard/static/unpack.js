// The other half of report.py: blocks of base64 and gzip back to documents.

export async function readBlock(id) {
  const element = document.getElementById(id);
  if (!element) return null;
  const raw = atob(element.textContent.trim());
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/** Documents of all candidates of a run by id, each put together when it is asked for. */
export function unpackCandidates(run, packed, nodes) {
  const rows = new Map(packed.candidates.map((row) => [row[0], row]));
  const picked = new Map();
  /** Numbers of outcomes by shape: those of the proposal that it starts from, with what differs. */
  const picksOf = (id) => {
    const way = [];
    while (id !== null && !picked.has(id)) {
      way.push(rows.get(id));
      id = way.at(-1)[2];
    }
    let picks = id === null ? [] : picked.get(id);
    for (const [own, , base, changes] of way.reverse()) {
      picks = base === null ? changes : picks.slice();
      if (base !== null) for (let i = 0; i < changes.length; i += 2) picks[changes[i]] = changes[i + 1];
      picked.set(own, picks);
    }
    return picks;
  };
  const outcome = (values) => Object.fromEntries(packed.outcome_fields.map((field, i) => [field, values[i]]));
  return (id) => {
    const row = rows.get(id);
    if (!row) return null;
    const [, texts, , , constants] = row;
    const found = { view: "candidate", run, node: nodes.get(id) };
    packed.texts.forEach((name, i) => {
      found[name] = packed.documents[texts[i]].map((k) => packed.lines[k]).join("\n");
    });
    const expedition = packed.expeditions[id] ?? null;
    const outcomes = picksOf(id).map((k, i) => outcome(packed.outcomes[i][k]));
    return { ...found, constants, outcomes, expedition };
  };
}

/** Ids of the candidates whose program, answer, message or error holds a text, whatever its case. */
export function searchCandidates(packed, text) {
  const wanted = text.toLowerCase();
  const holds = new Map();
  const documentHolds = (number) => {
    if (!holds.has(number)) {
      const found = packed.documents[number].map((k) => packed.lines[k]).join("\n");
      holds.set(number, found.toLowerCase().includes(wanted));
    }
    return holds.get(number);
  };
  const columns = ["source", "answer", "message", "error"].map((name) => packed.texts.indexOf(name));
  return packed.candidates.filter(([, texts]) => columns.some((c) => documentHolds(texts[c]))).map(([id]) => id);
}
