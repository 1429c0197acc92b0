"""The calibration record of a command."""

from __future__ import annotations

from pathlib import Path

from edgeq.artifacts.model_names import short_name
from edgeq.artifacts.record import CalibrationRecord
from edgeq.commands import defaults
from edgeq.system.progress import SILENT, Progress


def load_record(path: Path | None, progress: Progress = SILENT) -> CalibrationRecord:
    """Load a record; None is the one that `edgeq calibrate` writes by default, made first if it is missing.

    Raises:
        ArtifactError: no such file, not a record of this version, or a damaged one.
    """
    if path is None and not defaults.RECORD.exists():
        progress.notice(f"no {defaults.RECORD} yet, so calibrating first, as `edgeq calibrate` does")
        from edgeq.commands.calibrate import Calibration, calibrate

        return calibrate(Calibration(), progress)[1]
    return CalibrationRecord.load(path or defaults.RECORD)


def model_name(record: CalibrationRecord) -> str:
    """Return the name of the recorded network, for file names and titles of figures."""
    return short_name(str(record.network.get("model", "network")))
