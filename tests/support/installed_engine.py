"""Marks of tests that run inside a server's engine on a CPU, and the GPU that they pretend."""

from __future__ import annotations

import importlib.metadata
from types import SimpleNamespace

import pytest
from decode_calls import DEVICE

H100 = SimpleNamespace(major=9, minor=0, multi_processor_count=132, name="NVIDIA H100 80GB HBM3")
H200 = SimpleNamespace(major=9, minor=0, multi_processor_count=132, name="NVIDIA H200")


def engine_marks(package: str, version: str) -> list[pytest.MarkDecorator]:
    """Marks of a module of slow tests; skips them without this version of the engine, or beside a GPU."""
    try:
        found = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        found = "none"
    return [
        pytest.mark.skipif(found != version, reason=f"needs {package} {version}; installed: {found}"),
        pytest.mark.skipif(DEVICE != "cpu", reason="written for Triton's interpreter"),
        pytest.mark.slow,
    ]
