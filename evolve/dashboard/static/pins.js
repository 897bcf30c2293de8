// Pins: candidates that a reader marked, with a note, kept in this browser alone.

const keyOf = (run) => `evosplit-pins:${run}`;

/** Notes by proposal of what is pinned in a run; empty where the browser keeps nothing. */
export function pinsOf(run) {
  try {
    const found = JSON.parse(localStorage.getItem(keyOf(run)) ?? "{}");
    return new Map(Object.entries(found).map(([id, note]) => [Number(id), String(note)]));
  } catch {
    return new Map();
  }
}

/** Pin a proposal with a note; a note of null takes the pin away. Whether the browser kept it. */
export function pin(run, id, note) {
  const pins = pinsOf(run);
  if (note === null) pins.delete(id);
  else pins.set(id, note);
  try {
    localStorage.setItem(keyOf(run), JSON.stringify(Object.fromEntries(pins)));
    return true;
  } catch {
    return false;
  }
}
