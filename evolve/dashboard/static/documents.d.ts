// Made from evolve/dashboard/views/documents.py by tests/support/dashboard_types.py.

export interface Score {
  score: number;
  geomean_speedup: number;
  oracle_share: number;
  regressions: number;
  worst_speedup: number;
  shapes: number;
  workspace_bytes: number;
  interpolated: number;
  missing: number;
}

export interface Node {
  id: number;
  kind: string;
  island: number;
  parent: number | null;
  inspirations: number[];
  status: string;
  message: string;
  note: string;
  rationale: string;
  model: string;
  train: Score | null;
  holdout: Score | null;
  features: Record<string, number>;
  duplicate_of: number | null;
  displaced: number[];
  tokens_in: number;
  tokens_out: number;
  cost_usd: number;
  answer_s: number | null;
  elapsed_s: number | null;
  asked_at_s: number;
  committed_at_s: number | null;
}

export interface CurvePoint {
  id: number;
  evaluations: number;
  seconds: number;
  cost_usd: number;
  train_score: number;
  train_share: number;
  its_holdout_score: number | null;
  its_holdout_share: number | null;
  holdout_score: number | null;
  holdout_share: number | null;
}

export interface SearchLimits {
  usd: number | null;
  tokens: number | null;
  gpu_s: number | null;
}

export interface Overview {
  view: "overview";
  run: string;
  state: string;
  ended: string;
  created_at: number;
  last_event_s: number;
  meta: Record<string, string>;
  config: string;
  settings: Record<string, string>;
  proposals: number;
  under_way: number;
  wanted: number;
  wall_s: number | null;
  seconds: number;
  cost_usd: number;
  tokens_in: number;
  tokens_out: number;
  gpu_s: number;
  limits: SearchLimits;
  models: Record<string, number>;
  statuses: Record<string, number>;
  expeditions: Record<string, number>;
  oracle_speedup: Record<string, number>;
  winner: number | null;
  leader: number | null;
  curve: CurvePoint[];
}

export interface ListedRun {
  run: string;
  state: string;
  ended: string;
  created_at: number;
  seconds: number;
  proposer: string;
  workload: string;
  setting: string;
  proposals: number;
  wanted: number;
  winner: number | null;
  train: Score | null;
  holdout: Score | null;
  cost_usd: number;
  tokens: number;
  curve: CurvePoint[];
}

export interface Runs {
  view: "runs";
  runs: ListedRun[];
}

export interface Constant {
  line: number;
  before: string;
  after: string;
}

export interface StoryStep {
  id: number;
  added: number;
  removed: number;
  constants: Constant[];
}

export interface Story {
  view: "story";
  run: string;
  steps: StoryStep[];
}

export interface MigrationMark {
  at: number;
  id: number;
  source: number;
  target: number;
}

export interface Lineage {
  view: "lineage";
  run: string;
  islands: number;
  winner: number | null;
  leader: number | null;
  path: number[];
  migrations: MigrationMark[];
  nodes: Node[];
}

export interface LaunchGrid {
  ctas: number;
  waves: number;
  longest_blocks: number;
}

export interface Outcome {
  num_splits: number;
  blocks_per_split: number;
  pack_gqa: boolean | null;
  sm_margin: number;
  variant: string;
  live_splits: number;
  grid: LaunchGrid;
  latency_us: number | null;
  speedup: number | null;
  error: number | null;
  left: number | null;
  regression: boolean;
  interpolated: boolean;
  changed: boolean;
}

export interface ExpeditionTurn {
  step: number;
  turn: number;
  kind: string;
  name: string;
  asked: string;
  text: string;
  calls: string[];
  draft: number | null;
  status: string;
  score: number | null;
  charged: boolean;
  tokens: number;
  cost_usd: number;
  elapsed_s: number;
}

export interface ExpeditionView {
  outcome: string;
  reason: string;
  by: string;
  child: number;
  hypothesis: string;
  answers: number;
  evaluations: number;
  drafts: number;
  tokens: number;
  cost_usd: number;
  seconds: number;
  turns: ExpeditionTurn[];
}

export interface Candidate {
  view: "candidate";
  run: string;
  node: Node;
  system: string;
  user: string;
  answer: string;
  error: string;
  message: string;
  source: string;
  feedback: string;
  constants: Constant[];
  outcomes: Outcome[];
  expedition: ExpeditionView | null;
}

export interface Cells {
  num_splits: number[];
  blocks_per_split: number[];
  pack_gqa: boolean | null[];
  sm_margin: number[];
  variant: string[];
  live_splits: number[];
  median_us: number[];
  low_us: number[];
  high_us: number[];
  speedup: number[];
  error: number[];
}

export interface ShapeCase {
  id: string;
  table: number;
  split: string;
  batch: number;
  seqlen_k: number;
  num_heads_q: number;
  num_heads_kv: number;
  head_dim: number;
  mix: string;
  live_seqlens: number[];
  weight: number;
  oracle_speedup: number;
  best: number;
  stock_grid: LaunchGrid;
  cells: Cells;
}

export interface Shapes {
  view: "shapes";
  run: string;
  cards: Record<string, string>[];
  missing: string;
  cases: ShapeCase[];
}

export interface GridEvent {
  at: number;
  island: number;
  cell: number[];
  id: number;
  replaced: number | null;
}

export interface GridView {
  view: "grid";
  run: string;
  islands: number;
  bins: number;
  features: string[];
  ranges: Record<string, number[]>;
  events: GridEvent[];
}

export interface Side {
  run: string;
  id: number;
  node: Node;
  source: string;
  curve: CurvePoint[];
}

export interface ConfigChange {
  key: string;
  a: string;
  b: string;
}

export interface DecisionChange {
  case: string;
  split: string;
  a: Outcome;
  b: Outcome;
}

export interface Compare {
  view: "compare";
  a: Side;
  b: Side;
  config: ConfigChange[];
  shapes_compared: number;
  decisions: DecisionChange[];
}
