"""One vLLM engine in a process of its own, driven by lines of JSON on standard input: see engine_tpot.py."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
import sys
import time
import zlib
from pathlib import Path
from typing import IO, Any

WARM_STEPS = 2

FA3 = "vllm.vllm_flash_attn._vllm_fa3_C"
"""Module that registers FA3's operators when vLLM imports it."""


def load_fa3(library: str) -> None:
    """Put another build in the place of vLLM's own, which is then not loaded; before vLLM is imported."""
    import torch  # noqa: F401  (the library is linked against it)

    spec = importlib.util.spec_from_file_location(FA3, library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[FA3] = module


def scaled_weights(model: Any) -> None:
    """Fill in weights of the size that trained ones have: vLLM's dummies are so small that every token is as likely.

    They are the same in every engine, and work the GPU as hard as real ones. Graphs read them where they are.
    """
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            generator = torch.Generator(weight.device).manual_seed(zlib.crc32(name.encode()))
            if weight.dim() == 1:
                weight.fill_(1.0)
            else:
                weight.normal_(0.0, weight.shape[-1] ** -0.5, generator=generator)


class EngineArm:
    """vLLM's offline engine in this process."""

    def __init__(self, options: dict[str, Any]) -> None:
        if options["library"]:
            load_fa3(options["library"])
        import torch
        from vllm import EngineArgs, SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.llm_engine import LLMEngine

        self.synchronize = torch.cuda.synchronize
        self.sampling, self.delta = SamplingParams, RequestOutputKind.DELTA
        arguments = EngineArgs(
            model=options["model"], load_format="dummy", skip_tokenizer_init=True, generation_config="vllm",
            dtype="bfloat16", enable_prefix_caching=True, disable_cascade_attn=True, disable_log_stats=True,
            max_model_len=options["max_keys"] + options["reserve"], max_num_seqs=options["max_batch"],
            gpu_memory_utilization=0.1, kv_cache_memory_bytes=options["kv_bytes"],
            attention_config={"backend": "FLASH_ATTN", **options["attention"]}, **options["engine"],
        )  # fmt: skip
        self.engine = LLMEngine.from_engine_args(arguments)
        self.engine.apply_model(scaled_weights)
        self.vocabulary = options["vocabulary"]
        self.reserve = options["reserve"]
        self.requests: list[str] = []
        self.count = 0

    def prompt(self, slot: int, length: int) -> dict[str, Any]:
        """Tokens of a slot: every length is the start of the same stream, so that a longer one finds it cached."""
        rng = random.Random(slot)
        return {"type": "token", "prompt_token_ids": [rng.randrange(3, self.vocabulary) for _ in range(length)]}

    def begin(self, lengths: list[int]) -> dict[str, Any]:
        """Add a request per length, and step until each has two tokens."""
        self.requests = []
        for slot, length in enumerate(lengths):
            self.count += 1
            parameters = self.sampling(max_tokens=self.reserve - 1, ignore_eos=True, temperature=0.0, detokenize=False,
                                       output_kind=self.delta)  # fmt: skip
            name = f"{self.count}"
            self.engine.add_request(name, self.prompt(slot, length), parameters)
            self.requests.append(name)
        seen = dict.fromkeys(self.requests, 0)
        while min(seen.values()) < 2:
            for output in self.engine.step():
                seen[output.request_id] += len(output.outputs[0].token_ids)
        self.steps(WARM_STEPS)
        return {"tokens": max(seen.values())}

    def steps(self, count: int) -> dict[str, Any]:
        """Seconds of each of some steps."""
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            self.engine.step()
            seconds.append(time.perf_counter() - start)
        self.synchronize()
        return {"seconds": seconds}

    def end(self) -> dict[str, Any]:
        """Abort the requests, and step until none is running."""
        self.engine.abort_request(self.requests, internal=False)
        for _ in range(4):
            self.engine.step()
        self.synchronize()
        return {}

    def probe(self) -> dict[str, Any]:
        """Greedy tokens and their log probabilities after fixed prompts: prefill gives the first, decode the rest."""
        found: dict[str, list[list[float]]] = {}
        parameters = self.sampling(max_tokens=6, ignore_eos=True, temperature=0.0, detokenize=False, logprobs=1)
        for slot, length in enumerate((40, 333, 700, 1500)):
            self.engine.add_request(f"probe{slot}", self.prompt(100 + slot, length), parameters)
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                if output.finished:
                    tokens, logs = output.outputs[0].token_ids, output.outputs[0].logprobs
                    found[output.request_id] = [[t, logs[i][t].logprob] for i, t in enumerate(tokens)]
        return {"probe": found}

    def facts(self) -> dict[str, Any]:
        """Versions, for the card."""
        import torch
        import triton
        import vllm

        return {
            "vllm": vllm.__version__, "torch": torch.__version__, "triton": triton.__version__,
            "fa3_sha256": hashlib.sha256(Path(str(sys.modules[FA3].__file__)).read_bytes()).hexdigest()[:12],
            "gpu": torch.cuda.get_device_name(), "memory_gb": round(torch.cuda.memory_allocated() / 1e9, 2),
        }  # fmt: skip


def serve(arm: Any, requests: IO[str], answers: IO[str]) -> None:
    """Answer lines of {"op": ...} until `quit`."""
    for line in requests:
        asked = json.loads(line)
        operation = asked.pop("op")
        if operation == "quit":
            return
        try:
            answer = getattr(arm, operation)(**asked)
        except Exception as error:  # a shape that fails costs that shape
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    """Serve one engine; vLLM prints to standard output, so that answers get a channel of their own."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    options = json.loads(sys.stdin.readline())
    try:
        arm = EngineArm(options)
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers, flush=True)
        raise
    print(json.dumps(arm.facts()), file=answers, flush=True)
    serve(arm, sys.stdin, answers)


if __name__ == "__main__":
    main()
