"""Identity of the GPU that latencies were measured on."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from evaluators.data.contract import Gpu


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """Identity of the measuring GPU; part of every table's card."""

    name: str
    uuid: str
    driver: str
    cuda: str
    num_sms: int
    l2_bytes: int

    def as_dict(self) -> dict[str, str | int]:
        """Mapping for JSON."""
        return asdict(self)

    def gpu(self) -> Gpu:
        """Properties that heuristics may read."""
        return Gpu(num_sms=self.num_sms, l2_bytes=self.l2_bytes, max_sm_margin=self.num_sms - 1)
