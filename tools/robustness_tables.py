"""Tables of broken files and interrupted commands."""

from __future__ import annotations

from stored import prose, stored, table


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


def fuzz_native() -> str:
    """What libFuzzer has run."""
    found = stored("fuzz_native")
    return prose(
        f"Programs of the native engine, by libFuzzer in {found['seconds'] // 60} minutes, with the inner loops of "
        f"every instruction set of the processor, under the address sanitizer and that for undefined behaviour: "
        f"{found['executions']:,} executions, {found['edges']:,} edges of the code, no failure."
    )


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
