"""The C source of one network: its header, its steps and its weights."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from importlib.resources import files
from typing import Final

from edgeq.native.program import End, Kind, Program, Step

_KERNELS: Final = {kind: f"eq_{kind.name.lower()}" for kind in Kind}
_PREPARED: Final = {
    Kind.CONVOLUTION: "eq_decode_convolution",
    Kind.DEPTHWISE: "eq_decode_depthwise",
}
_LINES: Final = (5, 6, 6, 4, 4, 3, 5, 3, 3)  # members of a step that stand in one line
_ROW: Final = 32  # bytes of weights in a line


def identifier(stem: str) -> str:
    """A file's stem as a name in C."""
    name = re.sub(r"\W+", "_", stem, flags=re.ASCII).strip("_").lower()
    return name if name[:1].isalpha() else f"net_{name}".rstrip("_")


class Source:
    """Writes the files of one network.

    Args:
        name: what its functions and macros begin with.
        program: the network.
        mapped: whether the caller passes the weights, from a file; else they are an array.
    """

    def __init__(self, name: str, program: Program, mapped: bool) -> None:
        self.name, self.program, self.mapped = name, program, mapped
        self.upper = name.upper()

    @property
    def prototype(self) -> str:
        """The declaration of the function that runs the network."""
        arguments = [
            *(f"const {_type(one)} *{argument}" for one, argument in zip(self.program.inputs, self.inputs, strict=True)),
            *(f"{_type(one)} *{argument}" for one, argument in zip(self.program.outputs, self.outputs, strict=True)),
            "void *arena", *(["const void *weights"] if self.mapped else []),
        ]  # fmt: skip
        return f"void {self.name}_run({', '.join(arguments)})"

    @property
    def inputs(self) -> list[str]:
        """Names of the arguments of the inputs."""
        return _arguments([one.name for one in self.program.inputs], set())

    @property
    def outputs(self) -> list[str]:
        """Names of the arguments of the outputs."""
        return _arguments([one.name for one in self.program.outputs], {*self.inputs})

    def header(self) -> str:
        """`NAME.h`."""
        guard, program = f"{self.upper}_H", self.program
        sizes = [
            line
            for kind, ends, arguments in (("input", program.inputs, self.inputs), ("output", program.outputs, self.outputs))
            for one, argument in zip(ends, arguments, strict=True)
            for line in (f"/* {kind} {argument}: {_described(one)} */", f"#define {self.upper}_{argument.upper()} {one.elements}")
        ]  # fmt: skip
        weights = (
            [f"#define {self.upper}_WEIGHTS {len(program.weights)} /* bytes of {self.name}.bin, at a multiple of 64 */"]
            if self.mapped else [f"extern const unsigned char {self.name}_weights[];"]
        )  # fmt: skip
        return "\n".join([
            f"/* {self.name}: a quantized network. See README.md. */", f"#ifndef {guard}", f"#define {guard}", "",
            "#include <stdint.h>", "", "#ifdef __cplusplus", 'extern "C" {', "#endif", "", *sizes,
            f"#define {self.upper}_ARENA {program.arena} /* bytes, at a multiple of 64; nothing in them is kept */",
            *weights, "", f"{self.prototype};", "", "#ifdef __cplusplus", "}", "#endif", "", "#endif", "",
        ])  # fmt: skip

    def code(self) -> str:
        """`NAME.c`: the steps, and what runs them."""
        kinds = sorted({step.kind for step in self.program.steps})
        cases = [f"    case {_constant(kind)}: {_KERNELS[kind]}(context, step, begin, end); break;" for kind in kinds]
        decoded = [
            f"  if (step->kind == {_constant(kind)}) {_PREPARED[kind]}(context, step);"
            for kind in kinds if kind in _PREPARED
        ]  # fmt: skip
        weights = "(const uint8_t *)weights" if self.mapped else f"{self.name}_weights"
        books = [f"{weights} + {at}" if at >= 0 else "NULL" for at in (-1, *self.program.codebooks)]
        lines = [
            f'#include "{self.name}.h"', '#include "kernels/edgeq.h"', "",
            f"/* In order: {', '.join(field.name.rstrip('_') for field in fields(Step))}. */",
            f"static const eq_step steps[{len(self.program.steps)}] = {{", *self._steps(), "};", "",
            "static void perform(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {",
            "  switch (step->kind) {", *cases, "  }", "}", "",
            "static void prepare(const eq_context *context, const eq_step *step) {",
            *(decoded or ["  (void)context;", "  (void)step;"]), "}", "",
            f"{self.prototype} {{",
            "  eq_network network;",
            f"  const void *inputs[{len(self.inputs)}];", f"  void *outputs[{len(self.outputs)}];",
            *(f"  inputs[{i}] = {name};" for i, name in enumerate(self.inputs)),
            *(f"  outputs[{i}] = {name};" for i, name in enumerate(self.outputs)),
            "  network.steps = steps;", f"  network.count = {len(self.program.steps)};",
            *(f"  network.codebooks[{i}] = {'NULL' if book == 'NULL' else f'(const int8_t *)({book})'};" for i, book in enumerate(books)),
            f"  eq_run(&network, {weights}, inputs, outputs, arena, perform, prepare);",
            "}", "",
        ]  # fmt: skip
        return "\n".join(lines)

    def array(self) -> Iterator[str]:
        """`NAME_weights.c`: the weights as an array, for flash; in pieces."""
        yield f'#include "{self.name}.h"\n\n#include "kernels/edgeq.h"\n\n'
        yield f"EQ_ALIGNED const unsigned char {self.name}_weights[{len(self.program.weights)}] = {{\n"
        for at in range(0, len(self.program.weights), _ROW):
            yield ",".join(map(str, self.program.weights[at : at + _ROW])) + ",\n"
        yield "};\n"

    def check(self, exact: Sequence[bool]) -> str:
        """`check/check.c`: runs the network on the test vector."""
        program = self.program
        arrays = [
            f"EQ_ALIGNED static {_type(one)} {kind}{i}[{one.elements}]{', expected' + str(i) + f'[{one.elements}]' if kind == 'output' else ''};"
            for kind, ends in (("input", program.inputs), ("output", program.outputs)) for i, one in enumerate(ends)
        ]  # fmt: skip
        reads = [
            *(f'  read("check/input{i}.bin", input{i}, sizeof input{i});' for i in range(len(program.inputs))),
            *(f'  read("check/output{i}.bin", expected{i}, sizeof expected{i});' for i in range(len(program.outputs))),
            *([f'  read("{self.name}.bin", weights, sizeof weights);'] if self.mapped else []),
        ]  # fmt: skip
        arguments = [
            *(f"input{i}" for i in range(len(program.inputs))), *(f"output{i}" for i in range(len(program.outputs))),
            "arena", *(["weights"] if self.mapped else []),
        ]  # fmt: skip
        compared = [
            f'  wrong += compare("{argument}", output{i}, expected{i}, {program.outputs[i].elements}, {int(exact[i])});'
            for i, argument in enumerate(self.outputs)
        ]  # fmt: skip
        weights = [f"EQ_ALIGNED static uint8_t weights[{self.upper}_WEIGHTS];"] if self.mapped else []
        text = (files("edgeq") / "native" / "check.c.in").read_text(encoding="utf-8")
        return _filled(text, {
            "NAME": self.name, "UPPER": self.upper, "ARRAYS": "\n".join([*arrays, *weights]),
            "READS": "\n".join(reads), "ARGUMENTS": ", ".join(arguments), "COMPARED": "\n".join(compared),
        })  # fmt: skip

    def makefile(self) -> str:
        """`Makefile`."""
        text = (files("edgeq") / "native" / "Makefile.in").read_text(encoding="utf-8")
        return _filled(text, {"NAME": self.name, "WEIGHTS": "" if self.mapped else f"{self.name}_weights.c "})

    def readme(self) -> str:
        """`README.md`."""
        program, weights = self.program, len(self.program.weights)
        ends = [
            f"- `{argument}`: {_described(one)}"
            for argument, one in zip([*self.inputs, *self.outputs], [*program.inputs, *program.outputs], strict=True)
        ]  # fmt: skip
        where = (
            f"The weights are in `{self.name}.bin`: map it into memory, or read it to an address that is a multiple of 64."
            if self.mapped else
            f"The weights are a constant array, `{self.name}_weights`, which compilers put where constants are: in flash."
        )  # fmt: skip
        text = (files("edgeq") / "native" / "README.md.in").read_text(encoding="utf-8")
        return _filled(text, {
            "NAME": self.name, "UPPER": self.upper, "PROTOTYPE": self.prototype, "ENDS": "\n".join(ends),
            "ARENA": str(program.arena), "WEIGHTS": str(weights), "WHERE": where,
            "SOURCES": " ".join([f"{self.name}.c", *([] if self.mapped else [f"{self.name}_weights.c"]), "kernels/*.c"]),
        })  # fmt: skip

    def _steps(self) -> Iterator[str]:
        for step, name in zip(self.program.steps, self.program.names, strict=True):
            words = [_literal(word) for word in step.words()]
            words[0] = _constant(step.kind)
            lines, at = list[str](), 0
            for count in _LINES:
                lines.append(", ".join(words[at : at + count]))
                at += count
            yield f"  /* {name.replace('*/', '* /')} */"
            yield "  {" + ",\n   ".join(lines) + "},"


def _filled(text: str, values: Mapping[str, str]) -> str:
    """A template, in which `@NAME@` stands for a value."""
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def _constant(kind: Kind) -> str:
    return f"EQ_{kind.name}"


def _literal(word: float) -> str:
    """A member; floats so that the same float32 is read."""
    if isinstance(word, int):
        return str(int(word))
    text = f"{struct.unpack('<f', struct.pack('<f', word))[0]:.9g}"
    return f"{text}f" if {*text} & {*".e"} else f"{text}.0f"


def _type(end: End) -> str:
    return "float" if end.floats else "uint8_t"


def _described(end: End) -> str:
    kind = "float" if end.floats else "uint8_t, the channels last"
    return f"{kind}, {' x '.join(map(str, end.shape)) or '1'}"


def _arguments(names: Sequence[str], taken: set[str]) -> list[str]:
    """Names in C of inputs or outputs, each of its own."""
    found = list[str]()
    for name in names:
        argument = identifier(name)
        while argument in taken | {*found} | _RESERVED:
            argument += "_"
        found.append(argument)
    return found


_RESERVED: Final = frozenset({
    "arena", "weights", "inputs", "outputs", "network", "steps", "auto", "break", "case", "char", "class", "const",
    "continue", "default", "delete", "do", "double", "else", "enum", "extern", "float", "for", "goto", "if", "inline",
    "int", "long", "new", "private", "public", "register", "restrict", "return", "short", "signed", "sizeof", "static",
    "struct", "switch", "template", "this", "typedef", "union", "unsigned", "virtual", "void", "volatile", "while",
})  # fmt: skip
"""Names that arguments cannot have: of the function's own, and words of C and C++."""
