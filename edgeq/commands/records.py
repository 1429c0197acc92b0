"""The record that a command works on."""

from __future__ import annotations

from pathlib import Path

from edgeq.artifacts.record import CalibrationRecord
from edgeq.commands import defaults
from edgeq.system.progress import SILENT, Progress


def load_record(path: Path | None, progress: Progress = SILENT) -> CalibrationRecord:
    """Load a record; None is the one that `edgeq calibrate` writes by default, made first if there is none.

    Raises:
        ArtifactError: the file is no record of this version.
    """
    if path is None and not defaults.RECORD.exists():
        progress.notice(f"no {defaults.RECORD} yet, so calibrating first, as `edgeq calibrate` does")
        from edgeq.commands.calibrate import Calibration, calibrate

        return calibrate(Calibration(), progress)[1]
    return CalibrationRecord.load(path or defaults.RECORD)


def model_name(record: CalibrationRecord) -> str:
    """Name of the recorded network, for the names of files and the titles of figures."""
    return str(record.network.get("model", "network"))
