"""Statuses of evaluations."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """Outcome of one candidate. Only `OK` carries a score."""

    OK = "ok"
    NO_ANSWER = "no_answer"
    """The proposer's answer had neither a program nor an applicable diff."""
    FROZEN_CODE = "frozen_code"
    """The proposal changed code outside the EVOLVE-BLOCK markers."""
    DUPLICATE = "duplicate"
    """Same source, syntax tree or decision table as an earlier candidate; not evaluated again."""
    SYNTAX = "syntax"
    """The source is not Python, or too large to parse."""
    LANGUAGE = "language"
    """The gate refused a construct outside the heuristic language."""
    RAISED = "raised"
    """The heuristic raised an exception."""
    BAD_ANSWER = "bad_answer"
    """The heuristic returned a value of the wrong type or out of range."""
    TIMEOUT = "timeout"
    """The sandbox's time limit was reached."""
    MEMORY = "memory"
    """The sandbox's memory limit was reached."""
    FORBIDDEN = "forbidden"
    """The sandbox killed the process for a forbidden system call."""
    CRASHED = "crashed"
    """The sandbox process ended in another way without a complete answer."""
    UNSTABLE = "unstable"
    """The program decided differently in another process, with another hash seed and order."""
    UNRECORDED = "unrecorded"
    """A decision whose launch the recorded table neither has nor brackets."""
    UNSAFE = "unsafe"
    """A launch above the workspace cap, outside what the kernel accepts, or refused by `judge.batch_invariant`."""
    WRONG = "wrong"
    """The kernel's output disagreed with the reference (live measurements)."""
    PROPOSER_FAILED = "proposer_failed"
    """The proposer gave up after its retries (timeouts, 429s, broken responses)."""
