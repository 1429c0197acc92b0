"""Defaults of the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgeq.artifacts.model_names import DEFAULT

MODEL: Final = DEFAULT
EMBEDDED: Final = "embedded"
"""The name of the weights and images that come with edgeq."""

RECORDS: Final = Path("calib")
RECORD: Final = RECORDS / f"{MODEL}.calib"
EXPORTS: Final = Path("exports")

CALIBRATION_SAMPLES: Final = 516
"""Number of embedded images to calibrate on: 12 of each of the 43 classes."""

TEST_SAMPLES: Final = 1290
"""Number of embedded images to evaluate on: 30 of each class."""

FOLDER_SAMPLES: Final = 1024
"""Number of images of a folder to calibrate on."""

BATCH: Final = 8
"""Number of images in a batch; the fastest on CPUs."""
