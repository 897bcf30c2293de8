"""Main program of a confined process that translates one candidate to C++, which may be deeply nested or large.

Started as `python -s -S -P -B translate_child.py`. The request comes on stdin as JSON, the reply goes to stdout:
`{"text": ...}` or `{"refused": ...}`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from evaluators.language.cpp.normalise import NotExpressible
from evaluators.language.native import Ranges, functions_source
from evaluators.sandbox import confine
from evaluators.targets.registry import TARGETS

LONGEST = 1_000_000
"""Largest C++ source in characters; the programs that ship have at most 20,000."""


def main() -> None:
    """Read the request, confine the process, translate, write the reply."""
    confine.end_with_the_parent()
    request = json.load(sys.stdin)
    confine.confine(**request["limits"])
    bounds = {int(position): tuple(ends) for position, ends in request["bounds"].items()}
    try:
        text = functions_source(request["source"], bounds, Ranges(**request["ranges"]), TARGETS[request["target"]])
        reply = {"text": text} if len(text) <= LONGEST else {"refused": "its C++ is too long"}
    except NotExpressible as refused:
        reply = {"refused": str(refused)}
    except Exception as error:  # too deep, too large or unsupported: the sandbox decides instead
        reply = {"refused": f"the translator gave up ({type(error).__name__})"}
    sys.stdout.write(json.dumps(reply))
    sys.stdout.flush()
    confine.leave()


if __name__ == "__main__":
    main()
