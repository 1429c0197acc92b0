"""What was measured of files: evaluations, benches and sweeps; their versions, and the fields that readers rely on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeq.artifacts.files import read_json
from edgeq.artifacts.schema import COUNT, NETWORK, NUMBER, PATH, POSITIVE, TEXT, TRUTH, Schema


@dataclass(frozen=True)
class Kind:
    """A kind of JSON artifact.

    Attributes:
        name: the field `format` has it behind `edgeq-`.
        version: the one that is written and read.
        schema: of what readers rely on.
    """

    name: str
    version: int
    schema: Schema

    def read(self, path: Path) -> dict[str, Any]:
        """Read an artifact of this kind.

        Raises:
            ArtifactError: as for `edgeq.artifacts.files.read_json`.
        """
        return read_json(path, self.name, self.version, self.schema)


_SCORES: Final[dict[Any, Any]] = {
    **dict.fromkeys(("top1", "top5", "agreement", "sqnr_db"), (NUMBER, None)), "metrics": {str: NUMBER}
}  # fmt: skip

EVALUATION: Final = Kind(
    "evaluation",
    2,
    {
        "data": PATH,
        "images": COUNT,
        "metric": PATH,
        "reference": _SCORES,
        "models": [{"name": PATH, "scheme": (TEXT, None), "bytes": POSITIVE, **_SCORES}],
    },
)

BENCH: Final = Kind(
    "bench",
    1,
    {
        "runtime": TEXT,
        "threads": COUNT,
        "batch": COUNT,
        "rows": [
            {"name": PATH, "scheme": (TEXT, None), "bytes": POSITIVE, "median_ms": POSITIVE, "p90_ms": POSITIVE}
            | {"samples_ms": [POSITIVE], "speedup": (POSITIVE, None), "unstable": TRUTH}
            | {"memory": {"load_ms": NUMBER, "peak_rss_bytes": COUNT}}
        ],
        "warnings": [PATH],
        "environment": {"cpu": TEXT, "logical_cores": (COUNT, None), "versions": {str: (TEXT, None)}},
    },
)

SWEEP: Final = Kind(
    "sweep",
    3,
    {
        "network": NETWORK,
        "effort": TEXT,
        "data": PATH,
        "images": COUNT,
        "metric": PATH,
        "reference": {"top1": (NUMBER, None), "sqnr_db": (NUMBER, None), "metrics": {str: NUMBER}},
        "rows": [
            {"name": PATH, "sha256": TEXT, "scheme": (TEXT, None), "budget": (TEXT, None), "missed": (TEXT, None)}
            | {"bytes": POSITIVE, "metrics": {str: NUMBER}}
            | dict.fromkeys(("top1", "top5", "drop", "agreement", "sqnr_db"), (NUMBER, None))
            | dict.fromkeys(("bitops", "estimated_drop", "seconds"), (NUMBER, None))
        ],
    },
)
