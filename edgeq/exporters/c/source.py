"""The C source of one network: its header, its steps and its weights."""

from __future__ import annotations

import re
import struct
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Final

from edgeq.native.program import End, Kind, Program, Step

_LINES: Final = (5, 6, 6, 4, 5, 3, 5, 3, 4)  # members of a step that stand in one line
_ROW: Final = 32  # bytes of weights in a line
_PREPARED: Final = {Kind.CONVOLUTION: "eq_decode_convolution", Kind.DEPTHWISE: "eq_decode_depthwise"}
_KERNELS: Final = ("eq", "edgeq")  # what names of kernels and their headers begin with
_RESERVED: Final = frozenset({
    "arena", "weights", "team", "inputs", "outputs", "network", "steps", "auto", "break", "case", "char", "class",
    "const", "continue", "default", "delete", "do", "double", "else", "enum", "extern", "float", "for", "goto", "if",
    "inline", "int", "long", "new", "private", "public", "register", "restrict", "return", "short", "signed", "sizeof",
    "static", "struct", "switch", "template", "this", "typedef", "union", "unsigned", "virtual", "void", "volatile",
    "while",
})  # fmt: skip
"""Names that arguments cannot have: the function's own, and words of C and C++."""


@dataclass(frozen=True)
class Argument:
    """An input or output as an argument of the function that runs the network.

    Attributes:
        name: in C.
        end: what it is.
    """

    name: str
    end: End

    @property
    def type(self) -> str:
        """Of its elements."""
        return "float" if self.end.floats else "uint8_t"

    @property
    def about(self) -> str:
        """Its type and shape, for people."""
        layout = "" if self.end.floats else ", the channels last"
        return f"{self.type}, {' x '.join(map(str, self.end.shape)) or '1'}{layout}"


class Source:
    """The files of one network.

    Args:
        name: what its functions and macros begin with.
        program: the network.
        mapped: whether the caller passes the weights, from a file; else they are an array.
    """

    def __init__(self, name: str, program: Program, mapped: bool) -> None:
        self.name, self.program, self.mapped = name, program, mapped
        self.inputs = _arguments(program.inputs, _RESERVED)
        self.outputs = _arguments(program.outputs, _RESERVED | {one.name for one in self.inputs})

    @property
    def upper(self) -> str:
        """What its macros begin with."""
        return self.name.upper()

    @property
    def in_float(self) -> bool:
        """Whether some steps compute in float."""
        return any(step.kind >= Kind.POINTWISE for step in self.program.steps)

    @property
    def shared(self) -> bool:
        """Whether several threads may run it together."""
        return self.program.threads > 1

    @property
    def prototype(self) -> str:
        """The declaration of the function that runs the network."""
        arguments = [f"const {one.type} *{one.name}" for one in self.inputs]
        arguments += [f"{one.type} *{one.name}" for one in self.outputs]
        arguments += ["void *arena", *(["const void *weights"] if self.mapped else [])]
        arguments += ["const eq_team *team"] if self.shared else []
        return f"void {self.name}_run({', '.join(arguments)})"

    def header(self) -> str:
        """`NAME.h`."""
        upper, program = self.upper, self.program
        sizes = list[str]()
        for kind, arguments in (("input", self.inputs), ("output", self.outputs)):
            for one in arguments:
                sizes += [f"/* {kind}: {one.about} */", f"#define {upper}_{one.name.upper()} {one.end.elements}"]
        weights = f"extern const unsigned char {self.name}_weights[];"
        if self.mapped:
            weights = f"#define {upper}_WEIGHTS {len(program.weights)} /* bytes of {self.name}.bin */"
        return "\n".join([
            f"/* {self.name}: a quantized network. See README.md. */", f"#ifndef {upper}_H", f"#define {upper}_H", "",
            "#include <stdint.h>", *(['#include "kernels/edgeq.h"'] if self.shared else []), "",
            "#ifdef __cplusplus", 'extern "C" {', "#endif", "", *sizes,
            f"#define {upper}_ARENA {program.arena} /* bytes; nothing in them is kept */", weights,
            *([f"#define {upper}_THREADS {program.threads} /* that may run it together */"] if self.shared else []), "",
            f"{self.prototype};", "", "#ifdef __cplusplus", "}", "#endif", "", "#endif", "",
        ])  # fmt: skip

    def code(self) -> str:
        """`NAME.c`: the steps, and what runs them."""
        steps, kinds = self.program.steps, sorted({step.kind for step in self.program.steps})
        weights = "(const uint8_t *)weights" if self.mapped else f"{self.name}_weights"
        team = "team" if self.shared else "NULL"
        return "\n".join([
            f'#include "{self.name}.h"', '#include "kernels/edgeq.h"', "",
            "/* The members of `eq_step`, in order. */",
            f"static const eq_step steps[{len(steps)}] = {{", *self._steps(), "};", "",
            "static void perform(const eq_context *context, const eq_step *step, int32_t begin, int32_t end) {",
            "  switch (step->kind) {",
            *(f"    case EQ_{kind.name}: eq_{kind.name.lower()}(context, step, begin, end); break;" for kind in kinds),
            "  }", "}", "",
            "static void prepare(const eq_context *context, const eq_step *step) {",
            "  (void)context;", "  (void)step;",
            *(f"  if (step->kind == EQ_{kind.name}) {_PREPARED[kind]}(context, step);" for kind in kinds
              if kind in _PREPARED),
            "}", "",
            f"{self.prototype} {{",
            f"  static const eq_network network = {{steps, {len(steps)}, {{NULL}}}}; /* without windows */",
            f"  const void *inputs[{len(self.inputs)}];", f"  void *outputs[{len(self.outputs)}];",
            *(f"  inputs[{i}] = {one.name};" for i, one in enumerate(self.inputs)),
            *(f"  outputs[{i}] = {one.name};" for i, one in enumerate(self.outputs)),
            f"  eq_run(&network, {weights}, inputs, outputs, arena, perform, prepare, {team});", "}", "",
        ])  # fmt: skip

    def array(self) -> Iterator[str]:
        """`NAME_weights.c`: the weights as an array, in pieces."""
        weights = self.program.weights
        yield f'#include "{self.name}.h"\n#include "kernels/edgeq.h"\n\n'
        yield f"EQ_ALIGNED const unsigned char {self.name}_weights[{len(weights)}] = {{\n"
        for at in range(0, len(weights), _ROW):
            yield ",".join(map(str, weights[at : at + _ROW])) + ",\n"
        yield "};\n"

    def _steps(self) -> Iterator[str]:
        members = [field.name.rstrip("_") for field in fields(Step)]
        yield from (f"  /* {line} */" for line in _in_lines(members))
        for step, name in zip(self.program.steps, self.program.names, strict=True):
            words = [f"EQ_{step.kind.name}", *map(_literal, [*step.words()][1:])]
            yield f"  /* {re.sub(r'[*/]{2,}', '/', name).replace(chr(92), '/')} */"  # nothing that C reads in comments
            yield "  {" + "\n   ".join(_in_lines(words)) + "},"


def identifier(stem: str) -> str:
    """A file's stem as a name in C; letters lose their accents."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", stem) if not unicodedata.combining(letter))
    name = re.sub(r"\W+", "_", plain, flags=re.ASCII).strip("_").lower()
    return name if name[:1].isalpha() and name not in _KERNELS else f"net_{name}".rstrip("_")


def _arguments(ends: Sequence[End], taken: frozenset[str] | set[str]) -> list[Argument]:
    """Names in C of inputs or outputs, each of its own."""
    found = list[Argument]()
    for end in ends:
        name = identifier(end.name)
        while name in taken or name in {one.name for one in found}:
            name += "_"
        found.append(Argument(name, end))
    return found


def _in_lines(words: Sequence[str]) -> list[str]:
    """The members of a step with commas between them, a few in a line."""
    assert len(words) == sum(_LINES)
    ends = [sum(_LINES[:i]) for i in range(len(_LINES) + 1)]
    lines = [", ".join(words[start:end]) for start, end in pairwise(ends)]
    return [f"{line}," for line in lines[:-1]] + lines[-1:]


def _literal(word: float) -> str:
    """A member; a float so that the same float32 is read."""
    if isinstance(word, int):
        return str(int(word))
    text = f"{struct.unpack('<f', struct.pack('<f', word))[0]:.9g}"
    return f"{text}f" if {*text} & {*".e"} else f"{text}.0f"
