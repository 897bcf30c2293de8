"""Documents of the dashboard, which `--json` prints and the page draws. One per view.

Typed plain dictionaries, since a report has hundreds of thousands of rows. docs/schema/dashboard.json is made from
them.
"""

from __future__ import annotations

from typing import Literal, NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict  # pydantic wants this one below Python 3.12


class Score(TypedDict):
    """`evaluators.data.evaluation.SplitScore` as JSON."""

    score: float
    geomean_speedup: float
    oracle_share: float
    regressions: int
    worst_speedup: float
    shapes: int
    workspace_bytes: int
    interpolated: int
    missing: NotRequired[int]  # absent in older journals


class Node(TypedDict):
    """Summary of one proposal, for the lineage.

    `status` is `asked` or `answered` while the proposal is running. Seconds count from the start of the run;
    None if the stage is not reached. `displaced` are the proposals whose grid cell this one took. `note` is the
    proposer's name of the edit, `rationale` the first sentence of an answer that begins with prose.
    """

    id: int
    kind: str
    island: int
    parent: int | None
    inspirations: list[int]
    status: str
    message: str
    note: str
    rationale: str
    model: str
    train: Score | None
    holdout: Score | None
    features: dict[str, float]
    duplicate_of: int | None
    displaced: list[int]
    tokens_in: int
    tokens_out: int
    cost_usd: float
    answer_s: float | None
    elapsed_s: float | None
    asked_at_s: float
    committed_at_s: float | None


class CurvePoint(TypedDict):
    """State of the search after one commit that changed it. Shares are of the oracle's log gain, 1 for all of it.

    `train_*` is the program with the best score on the training shapes so far and `its_holdout_*` its scores on the
    holdout; `holdout_*` is the one with the best score on the holdout so far, the winner. Best scores never fall; the
    share of the best program can, since a score is the speed-up minus penalties.
    """

    id: int
    evaluations: int
    seconds: float
    cost_usd: float
    train_score: float
    train_share: float
    its_holdout_score: float | None
    its_holdout_share: float | None
    holdout_score: float | None
    holdout_share: float | None


class SearchLimits(TypedDict):
    """Budgets of a run, besides proposals and time; None for no limit."""

    usd: float | None
    tokens: int | None
    gpu_s: float | None


class Overview(TypedDict):
    """A run at a glance.

    `state`: running (another process holds its lock), finished, interrupted (Ctrl-C), stopped (by a limit or an error,
    which `ended` names), or broken off (its process ended without writing a reason). `last_event_s` is the time of
    the last event, in seconds from the start. `settings` is the configuration by dotted key. `expeditions` counts those
    of an agent by outcome.
    """

    view: Literal["overview"]
    run: str
    state: str
    ended: str
    created_at: float
    last_event_s: float
    meta: dict[str, str]
    config: str
    settings: dict[str, str]
    proposals: int
    under_way: int
    wanted: int
    wall_s: float | None
    seconds: float
    cost_usd: float
    tokens_in: int
    tokens_out: int
    gpu_s: float
    limits: SearchLimits
    models: dict[str, int]
    statuses: dict[str, int]
    expeditions: dict[str, int]
    oracle_speedup: dict[str, float]
    winner: int | None
    leader: int | None
    curve: list[CurvePoint]


class ListedRun(TypedDict):
    """One run among others; `train` and `holdout` are its winner's."""

    run: str
    state: str
    ended: str
    created_at: float
    seconds: float
    proposer: str
    workload: str
    setting: str
    proposals: int
    wanted: int
    winner: int | None
    train: Score | None
    holdout: Score | None
    cost_usd: float
    tokens: int
    curve: list[CurvePoint]


class Runs(TypedDict):
    """Several runs, the latest first."""

    view: Literal["runs"]
    runs: list[ListedRun]


class Constant(TypedDict):
    """A number that differs from the parent in a program that is otherwise the same."""

    line: int
    before: str
    after: str


class StoryStep(TypedDict):
    """One program on the path from a seed to the winner, with changed lines and constants."""

    id: int
    added: int
    removed: int
    constants: list[Constant]


class Story(TypedDict):
    """Ancestors of the winner, the seed first."""

    view: Literal["story"]
    run: str
    steps: list[StoryStep]


class MigrationMark(TypedDict):
    """A program copied to the next island after commit `at`."""

    at: int
    id: int
    source: int
    target: int


class Lineage(TypedDict):
    """All proposals with their origins. `path` leads from a seed to the winner."""

    view: Literal["lineage"]
    run: str
    islands: int
    winner: int | None
    leader: int | None
    path: list[int]
    migrations: list[MigrationMark]
    nodes: list[Node]


class LaunchGrid(TypedDict):
    """Grid of a launch: CTAs with work, waves over the GPU's SMs, KV blocks of the longest CTA."""

    ctas: int
    waves: float
    longest_blocks: int


class Outcome(TypedDict):
    """Outcome of a program's decision on one recorded shape.

    `num_splits` and `blocks_per_split` have the kernel's own choices filled in; `variant` names further knobs, and is
    empty if the target has no variants; `live_splits` is the mean over the sequences.
    `speedup` is stock latency / latency, `error` the standard error of its logarithm, `left` the speed-up that the best
    recorded launch would add. Latencies in microseconds; None, with `interpolated` False, if the table neither has nor
    brackets the launch.
    """

    num_splits: int
    blocks_per_split: int
    pack_gqa: bool | None
    sm_margin: int
    variant: str
    live_splits: float
    grid: LaunchGrid
    latency_us: float | None
    speedup: float | None
    error: float | None
    left: float | None
    regression: bool
    interpolated: bool
    changed: bool


class ExpeditionTurn(TypedDict):
    """One step of an expedition.

    `kind`: model (its `text`, and the `calls` of tools), tool (`asked` are its arguments), supervisor (a diagnosis on
    stagnation) or end. `draft`, `status` and `score` are those of the draft that the step evaluated, the score on the
    training shapes; `charged` tells if it used an evaluation. `status` is `refused` if a tool did nothing.
    """

    step: int
    turn: int
    kind: str
    name: str
    asked: str
    text: str
    calls: list[str]
    draft: int | None
    status: str
    score: float | None
    charged: bool
    tokens: int
    cost_usd: float
    elapsed_s: float


class ExpeditionView(TypedDict):
    """An expedition of an agent.

    `outcome`: submitted, dead (evaluated drafts, none passed), blind (never evaluated any), or under way. `by` is the
    party that ended it, `agent` or `harness`; `child` the number of the draft that was submitted, 0 without. `answers`
    are those of the model, or the calls of an external operator.
    """

    outcome: str
    reason: str
    by: str
    child: int
    hypothesis: str
    answers: int
    evaluations: int
    drafts: int
    tokens: int
    cost_usd: float
    seconds: float
    turns: list[ExpeditionTurn]


class Candidate(TypedDict):
    """One proposal in full. `outcomes` follow the order of `Shapes.cases`; empty without decisions.

    `expedition` is that of an agent; None for other proposals.
    """

    view: Literal["candidate"]
    run: str
    node: Node
    system: str
    user: str
    answer: str
    error: str
    message: str
    source: str
    feedback: str
    constants: list[Constant]
    outcomes: list[Outcome]
    expedition: ExpeditionView | None


class Cells(TypedDict):
    """Recorded launches of one shape as columns; the first is the baseline's.

    `median_us`, `low_us` and `high_us` are over the rounds; `speedup` is the median over paired rounds of baseline /
    launch and `error` the standard error of its logarithm. `variant` is empty if the target has no variants.
    """

    num_splits: list[int]
    blocks_per_split: list[int]
    pack_gqa: list[bool | None]
    sm_margin: list[int]
    variant: list[str]
    live_splits: list[float]
    median_us: list[float]
    low_us: list[float]
    high_us: list[float]
    speedup: list[float]
    error: list[float]


class ShapeCase(TypedDict):
    """One recorded shape. `oracle_speedup` is cross-fitted; `best` is the cell with the best median.

    `table` is its table's index in `Shapes.cards`. `live_seqlens` is empty if every sequence fills the capacity;
    `mix` names the distribution of a ragged batch.
    """

    id: str
    table: int
    split: str
    batch: int
    seqlen_k: int
    num_heads_q: int
    num_heads_kv: int
    head_dim: int
    mix: str
    live_seqlens: list[int]
    weight: float
    oracle_speedup: float
    best: int
    stock_grid: LaunchGrid
    cells: Cells


class Shapes(TypedDict):
    """Measurements that a search may see, never of sealed test shapes.

    One card per table: its `label`, the origin of the measurements, and `recorded` or `live`. A live run has only
    launches that some program decided; `unmeasured` counts the shapes without any.
    """

    view: Literal["shapes"]
    run: str
    cards: list[dict[str, str]]
    missing: str
    cases: list[ShapeCase]


class GridEvent(TypedDict):
    """A cell that got a new owner after commit `at`; `cell` holds a bin per feature."""

    at: int
    island: int
    cell: list[int]
    id: int
    replaced: int | None


class GridView(TypedDict):
    """MAP-Elites grid over time. Ranges are of the values so far; bins were computed when a program was added."""

    view: Literal["grid"]
    run: str
    islands: int
    bins: int
    features: list[str]
    ranges: dict[str, list[float]]
    events: list[GridEvent]


class Side(TypedDict):
    """One side of a comparison."""

    run: str
    id: int
    node: Node
    source: str
    curve: list[CurvePoint]


class ConfigChange(TypedDict):
    """A key of the configuration that differs; values as YAML, empty where absent."""

    key: str
    a: str
    b: str


class DecisionChange(TypedDict):
    """A shape with different decisions; `case` is its name in B's run."""

    case: str
    split: str
    a: Outcome
    b: Outcome


class Compare(TypedDict):
    """Two candidates, of one run or of two. Decisions are compared on the shapes that both runs recorded."""

    view: Literal["compare"]
    a: Side
    b: Side
    config: list[ConfigChange]
    shapes_compared: int
    decisions: list[DecisionChange]


Document = Runs | Overview | Story | Lineage | Candidate | Shapes | GridView | Compare
VIEWS = ("runs", "overview", "story", "lineage", "candidate", "shapes", "grid", "compare")


def dashboard_schema() -> dict[str, object]:
    """JSON schema of all documents, without additional keys."""
    schema = TypeAdapter(Document).json_schema()
    for definition in schema["$defs"].values():
        definition["additionalProperties"] = False
    return schema | {"title": "evosplit report --json VIEW"}
