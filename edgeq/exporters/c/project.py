"""What stands around the C source of a network: a check, a Makefile, a README."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from edgeq.exporters.c.source import Source
from edgeq.native.program import Flag


def check(source: Source, allowed: float) -> str:
    """`check/check.c`: runs the network on the test vector.

    Args:
        source: of the network.
        allowed: squares of the errors of an output, by squares of its values; 0 where every bit has to be the same.
    """
    inputs = [(f"input{i}", one) for i, one in enumerate(source.inputs)]
    outputs = [(f"output{i}", one) for i, one in enumerate(source.outputs)]
    arrays = [f"EQ_ALIGNED static {one.type} {name}[{one.end.elements}];" for name, one in inputs + outputs]
    arrays += [f"static float expected_{name}[{one.end.elements}];" for name, one in outputs]
    reads = [f'  read("check/{name}.bin", {name}, sizeof {name});' for name, _ in inputs]
    reads += [f'  read("check/{name}.bin", expected_{name}, sizeof expected_{name});' for name, _ in outputs]
    arguments = [*(name for name, _ in inputs + outputs), "arena"]
    if source.mapped:
        arrays.append(f"EQ_ALIGNED static uint8_t weights[{source.upper}_WEIGHTS];")
        reads.append(f'  read("{source.name}.bin", weights, sizeof weights);')
        arguments.append("weights")
    arguments += ["NULL"] if source.shared else []
    compared = [
        f'  wrong += compare("{one.name}", {name}, expected_{name}, {one.end.elements}, {allowed});'
        for name, one in outputs
    ]
    return _filled("check.c.in", source, {
        "ARRAYS": "\n".join(arrays), "READS": "\n".join(reads), "ARGUMENTS": ", ".join(arguments),
        "COMPARED": "\n".join(compared),
    })  # fmt: skip


def makefile(source: Source) -> str:
    """`Makefile`."""
    return _filled("Makefile.in", source, {"WEIGHTS": "" if source.mapped else f"{source.name}_weights.c "})


def readme(source: Source) -> str:
    """`README.md`."""
    where, sources = f"are the array `{source.name}_weights`, which lies where constants lie: in flash, on boards.", ""
    if source.mapped:
        where = f"are `{source.name}.bin`: map it into memory, or read it to an address that is a multiple of 64."
    else:
        sources = f"`{source.name}_weights.c`, "
    same = "Every value that it computes from integers has the bits that ONNX Runtime computes, on every processor."
    if any(step.flags & Flag.INTEGER for step in source.program.steps):
        same = "Sums are scaled in integers, for processors without floats: few are a step apart from ONNX Runtime's."
    libraries = "It takes no library." if not source.in_float else "Some steps are in float: link with `-lm`."
    libraries += " Several networks can be linked into one program."
    ends = [
        f"- `{one.name}`: {one.about} (`{source.upper}_{one.name.upper()}` elements)"
        for one in [*source.inputs, *source.outputs]
    ]
    return _filled("README.md.in", source, {
        "TEAM": _team(source) if source.shared else "",
        "LIBRARIES": libraries, "ARITHMETIC": same, "PROTOTYPE": source.prototype, "ENDS": "\n".join(ends),
        "ARENA": f"{source.program.arena:,}", "WHERE": where,
        "WEIGHTS": f"{len(source.program.weights):,}", "SOURCES": f"`{source.name}.c`, {sources}`kernels/*.c`",
    })  # fmt: skip


def _team(source: Source) -> str:
    arguments = ", ".join([*(one.name for one in [*source.inputs, *source.outputs]), "arena"])
    weights = ", weights" if source.mapped else ""
    return f"""
- `team`: `NULL`, or which thread of how many calls: up to {source.program.threads} run the network together if each of
  them calls it, with the same arena and a team of its own. `wait` is a barrier: `eq_wait` with an `eq_barrier`, that of
  your threads, or, of OpenMP:

```c
static void wait(void *barrier) {{
  (void)barrier;
#pragma omp barrier
}}

#pragma omp parallel num_threads({source.upper}_THREADS)
{{
  eq_team team = {{omp_get_thread_num(), omp_get_num_threads(), wait, NULL}};
  {source.name}_run({arguments}{weights}, &team);
}}
```
"""


def _filled(template: str, source: Source, values: Mapping[str, str]) -> str:
    """A template of the package, in which `@NAME@` stands for a value."""
    text = (files("edgeq") / "native" / "templates" / template).read_text(encoding="utf-8")
    for name, value in {**values, "NAME": source.name, "UPPER": source.upper}.items():
        text = text.replace(f"@{name}@", value)
    return text
