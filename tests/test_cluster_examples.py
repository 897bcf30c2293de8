"""The examples in configs/cluster: they parse, and what they call exists. No cluster is near."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, Command

from evolve.config import load_config
from evolve.sweep.plan import plan_sweep

FOLDER = ROOT / "configs" / "cluster"
CONFIG = "configs/cluster/llama31-70b-ray.yaml"


def sweep_of(words: list[str]) -> tuple[str, str, list[str]]:
    """Configuration, seeds and overrides of an `evosplit sweep` command; refuses words that it does not know."""
    assert words[0] == "sweep"
    options: dict[str, list[str]] = {"--seeds": [], "--set": [], "--jobs": []}
    rest = words[2:]
    while rest:
        options[rest[0]].append(rest[1])
        rest = rest[2:]
    assert all(jobs.isdecimal() for jobs in options["--jobs"])
    return words[1], options["--seeds"][0], options["--set"]


def test_the_configuration_is_valid(evosplit: Command) -> None:
    done = evosplit("config", "validate", CONFIG)
    assert done.code == 0 and "measured live" in done.out, done.err
    config = load_config(ROOT / CONFIG, [])
    assert config.measure is not None and config.measure.executor == "ray" and config.measure.gpus == "all"
    assert Path(config.store_path()).is_absolute()


def test_the_configuration_searches_as_the_one_for_one_gpu_does() -> None:
    one, many = load_config(ROOT / "configs" / "llama31-70b-h100.yaml", []), load_config(ROOT / CONFIG, [])
    assert (one.search, one.seeds, one.proposer) == (many.search, many.seeds, many.proposer)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_batch_script_is_a_shell_script() -> None:
    subprocess.run(["bash", "-n", FOLDER / "slurm.sbatch"], check=True)


def test_the_batch_script_starts_a_sweep_that_can_be_planned() -> None:
    text = (FOLDER / "slurm.sbatch").read_text()
    (new,) = re.findall(r"sweep=\((sweep configs[^)]*)\)", text)
    config, seeds, sets = sweep_of(shlex.split(new))
    assert len(plan_sweep(ROOT / config, sets, seeds)) == 8
    directives = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", text, re.MULTILINE))
    assert directives["ntasks-per-node"] == "1" and directives["signal"].startswith("INT@")
    # The entry point is the last thing that symmetric-run is given, and knows where the cluster is.
    assert re.search(r"symmetric-run \\\n(.*\\\n)+\s+-- \\\n\s+env RAY_ADDRESS=\S+ \\\n\s+evosplit ", text)


def test_the_ray_job_starts_a_sweep_that_can_be_planned() -> None:
    job = yaml.safe_load((FOLDER / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    program, *words = shlex.split(job["spec"]["entrypoint"])
    assert program == "evosplit"
    config, seeds, sets = sweep_of(words)
    members = plan_sweep(ROOT / config, sets, seeds)
    mounts = {m["mountPath"] for m in container(job["spec"]["rayClusterSpec"]["headGroupSpec"])["volumeMounts"]}
    for member in members:
        # What the controller writes lies on the head's own volume.
        assert member.config.runs_dir in mounts
        assert str(Path(member.config.store_path()).parent) in mounts


def test_the_ray_job_gives_each_worker_one_gpu() -> None:
    cluster = yaml.safe_load((FOLDER / "rayjob.yaml").read_text())["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert container(group)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
    assert container(group)["image"] == container(cluster["headGroupSpec"])["image"]
    assert "volumeMounts" not in container(group)


def container(group: dict) -> dict:  # type: ignore[type-arg]
    (found,) = group["template"]["spec"]["containers"]
    return found  # type: ignore[no-any-return]
