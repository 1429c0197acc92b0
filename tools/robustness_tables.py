"""Tables of broken files and interrupted commands."""

from __future__ import annotations

from stored import stored, table


def fuzz() -> str:
    """What became of broken files, by reader."""
    rows = [
        [
            row["reader"], f"{row['inputs']:,}", f"{row['accepted']:,}", f"{row['refused']:,}",
            f"{sum(row['failures'].values()):,}",
        ]
        for row in stored("fuzz")["rows"]
    ]  # fmt: skip
    return table(["reader", "inputs", "still valid", "refused in one line", "anything else"], rows)


def faults() -> str:
    """What became of commands that were killed or found the disk full."""
    rows = []
    for name, found in stored("faults")["commands"].items():
        kinds = [found[key] for key in ("killed_at_moments", "killed_at_operations", "full_at_operations")]
        landed = [kind["faults"] - kind["finished"] for kind in kinds]
        mended = [count - len(kind["wrong"]) for count, kind in zip(landed, kinds, strict=True)]
        rows.append([name, *(f"{good} of {count}" for good, count in zip(mended, landed, strict=True))])
    head = ["repaired by running it again", "killed at a random moment", "killed at a file operation", "disk full"]
    return table(head, rows)
