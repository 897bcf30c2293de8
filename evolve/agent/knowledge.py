"""The knowledge base of agents: texts in evolve/knowledge/, one per topic."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent.parent / "knowledge"
NOTES = "notes"
"""Topic without a file: lessons of earlier expeditions of the run."""


def topics() -> dict[str, str]:
    """First line of every text, by its topic."""
    return {path.stem: path.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ") for path in _files()}


def _files() -> list[Path]:
    return sorted(FOLDER.glob("*.md"))


def read_topic(topic: str) -> str:
    """A text, or the list of topics where there is none of that name."""
    found = next((path for path in _files() if path.stem == topic), None)
    if found is not None:
        return found.read_text(encoding="utf-8").rstrip()
    lines = [f"- {name}: {title}" for name, title in topics().items()]
    lines.append(f"- {NOTES}: lessons that earlier expeditions of this run left")
    return "\n".join([f"no topic {topic!r}; the topics:" if topic else "the topics:", *lines])
