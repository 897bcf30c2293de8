// Proposals as the lineage document holds them, for tests.

const score = (value) => ({ score: value, geomean_speedup: value, oracle_share: (value - 1) * 25, regressions: 0 });

/** A proposal that was scored, with what a test cares about put over it. */
export function node(id, changes = {}) {
  const { train, holdout, ...rest } = changes;
  return {
    id,
    kind: id ? "proposal" : "seed",
    island: 0,
    parent: id ? 0 : null,
    inspirations: [],
    status: "ok",
    message: "",
    note: "",
    rationale: "",
    model: "model",
    train: train === null ? null : score(train ?? 1),
    holdout: holdout === undefined ? null : score(holdout),
    features: {},
    duplicate_of: null,
    displaced: [],
    tokens_in: 0,
    tokens_out: 0,
    cost_usd: 0,
    answer_s: 1,
    elapsed_s: 2,
    asked_at_s: id,
    committed_at_s: id + 1,
    ...rest,
  };
}

export const failed = (id, status, message, changes = {}) => node(id, { status, message, train: null, ...changes });
