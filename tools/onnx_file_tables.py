"""The table of trained ONNX files."""

from __future__ import annotations

from typing import Any, Final

from stored import STATIC, stored, table

_MODELS: Final = {"original": "original, float", "8bit": "8bit", "4bit": "4bit", STATIC: STATIC}


def onnx_files() -> str:
    """Every file beside the original: bytes, kernels, closeness of outputs and answers, speed."""
    rows = []
    for name, found in stored("onnx_files")["files"].items():
        base = found["models"]["original"]["median_ms"]
        for key, title in _MODELS.items():
            row: dict[str, Any] | None = found["models"].get(key)
            if row is None:
                rows.append([name, title, *[""] * 4, found[STATIC] or ""])
                continue
            kernels, noise = row["kernels"], row["sqnr_db"]
            ours = key != "original"
            rows.append([
                name, title, f"{row['bytes'] / 1e6:.2f} MB",
                f"{kernels['integer']} of {kernels['integer'] + kernels['float']}",
                f"{noise:.1f} dB" if ours and noise is not None else "",
                f"{row['same']:.1f} % of {found['unit']}" if ours else "",
                f"{base / row['median_ms']:.2f} x" if ours else f"{base:.1f} ms",
            ])  # fmt: skip
    head = ["", "", "size", "integer kernels", "outputs", "answers of the original", "over the original"]
    return table(head, rows)
