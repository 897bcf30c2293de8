"""The shapes: measurements of a run, or the reason why they cannot be shown."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from evaluators.data.contract import LIVE_SETTINGS
from evaluators.data.device import DeviceRecord
from evaluators.data.workloads import Weighting
from evaluators.judge.judge import readable_version
from evaluators.latencies.store import BenchKey, StoreError, read_bench, shape_key
from evaluators.latencies.table import Table, TableError, read_table, table_digest
from evaluators.measure.live import anchored_cells
from evaluators.targets.registry import target_of
from evolve.assets import asset
from evolve.dashboard.views.documents import Shapes
from evolve.dashboard.views.reader import RunReader
from evolve.dashboard.views.recorded_table import RecordedTable
from evolve.dashboard.views.recording import Recording
from evolve.errors import UserError
from evolve.journal.run_folder import kept_tables
from evolve.run import configured_cases
from evolve.traffic import open_traffic

LIVE_META = ("gpu", "driver", "build", "setting", "workload", "num_sms", "l2_bytes")


def recording_of(reader: RunReader) -> tuple[Recording | None, str]:
    """Measurements of the run's shapes: its recorded tables, or for a live run the launches in its store.

    Returns None and the reason if there are none.
    """
    try:
        weighting = Weighting(reader.meta.get("weighting", ""))
        if reader.meta.get("measure") == "live":
            return _live(reader, weighting)
        tables = kept_tables(reader.folder) or _configured(reader)
        if not tables:
            return None, "the run keeps no recorded table, and the one that it was judged on does not lie where it did"
        version = readable_version(reader.meta.get("judge_version", ""))
        return Recording([RecordedTable(read_table(path), weighting, version=version) for path in tables]), ""
    except (TableError, StoreError, ValueError, UserError) as error:
        return None, str(error)


def _configured(reader: RunReader) -> list[Path]:
    """Tables of the configuration, if they are still the same as at the run."""
    config = reader.config
    try:
        paths = [asset(path) for path in config.table_paths()] if config else []
        digests = [table_digest(path) for path in paths]
    except (UserError, OSError):
        return []
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
    return paths if whole == reader.meta.get("table_sha256") else []


def _live(reader: RunReader, weighting: Weighting) -> tuple[Recording | None, str]:
    """Launches in the run's store for its GPU and build, including those of other runs.

    A run on a pool has no UUID of a GPU: each shape is then read from one GPU of the pool's model.
    """
    meta, config = reader.meta, reader.config
    lacking = [key for key in LIVE_META if not meta.get(key)]
    if lacking or config is None:
        return None, f"the run was measured live, and its journal does not say {', '.join(lacking) or 'how'}"
    store = Path(config.store_path())
    if not store.is_file():
        store = reader.folder.parent / store.name
    uuid = meta.get("gpu_uuid", "")
    device = DeviceRecord(meta["gpu"], uuid, meta["driver"], "", int(meta["num_sms"]), int(meta["l2_bytes"]))
    setting = LIVE_SETTINGS[config.judge.setting]
    readings = read_bench(store, BenchKey(device, meta["build"], setting))
    if not readings:
        return None, f"the run was measured live, and {store} holds none of its launches"
    target = target_of(setting)
    gpu = replace(device.gpu(), max_sm_margin=target.live_sm_margin)
    cases = configured_cases(config, setting, open_traffic(config))
    stock = target.baseline(setting)
    cells = {}
    for case in cases:
        known = readings.get(shape_key(case.shape), {})
        spelled = target.spelled_out(case.shape, setting, stock, gpu)
        cells[case.id] = anchored_cells(known, target.launch(case.shape, setting, spelled, gpu).key) if known else ()
    card = {
        "workload": meta["workload"],
        "setting": meta["setting"],
        "build": meta["build"],
        "device": {"name": meta["gpu"], "driver": meta["driver"]},
    }
    return Recording([RecordedTable(Table(card, setting, gpu, cases, cells, ""), weighting, live=True)]), ""


def shapes(reader: RunReader, recording: Recording | None, missing: str) -> Shapes:
    """Document of a run's shapes; empty, with the reason in `missing`, without measurements."""
    return Shapes(
        view="shapes",
        run=reader.name,
        cards=recording.cards if recording else [],
        missing=missing,
        cases=recording.shape_cases if recording else [],
    )
