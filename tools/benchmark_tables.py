"""Write the tables of the README and of docs/ from the stored results and from the command line itself.

python tools/benchmark_tables.py            # rewrites the pages
python tools/benchmark_tables.py --check    # exit code 1 if one would change

A table stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import click
import command_tables
import native_tables
import onnx_file_tables
import quality_tables
import robustness_tables
import speed_tables
import zoo_tables
from stored import ROOT

PAGES: Final = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

_MARKED: Final = re.compile(r"(?<=<!-- table: )([\w-]+)( -->\n).*?(?=^<!-- end -->)", re.DOTALL | re.MULTILINE)


MEASURED: Final = (
    quality_tables.budgets, quality_tables.squeezenet, quality_tables.embedded, quality_tables.efforts,
    quality_tables.parity, quality_tables.random_networks, quality_tables.detector,
    quality_tables.cpus, quality_tables.preflight, quality_tables.observers,
    quality_tables.sensitivity, quality_tables.trellises, quality_tables.altered,
    quality_tables.rule,
    speed_tables.summary, speed_tables.tools, speed_tables.setting, speed_tables.peers, speed_tables.ratios,
    speed_tables.loading, speed_tables.versions, speed_tables.pixels, speed_tables.costs, speed_tables.commands,
    speed_tables.contention, speed_tables.kernels,
    speed_tables.grouped, speed_tables.sessions, speed_tables.growth,
    robustness_tables.fuzz, robustness_tables.fuzz_native, robustness_tables.faults,
    onnx_file_tables.onnx_files, native_tables.native, native_tables.native_setting, native_tables.native_avx2,
    native_tables.native_avx2_setting, native_tables.native_settings,
    native_tables.native_limit, native_tables.native_limit_setting, native_tables.native_growth, native_tables.in_torch,
    native_tables.native_peers, native_tables.native_peers_setting,
    native_tables.browser, native_tables.browser_setting,
    native_tables.native_checks, native_tables.native_networks, native_tables.native_checks_setting,
    zoo_tables.sets, zoo_tables.failures, zoo_tables.slower, zoo_tables.zoo,
)  # fmt: skip
TABLES: Final[dict[str, Callable[[], str]]] = {
    **{build.__name__: build for build in MEASURED},
    **dict(command_tables.all_tables()),
}


def named(text: str) -> list[str]:
    """The names of the tables in a page."""
    return [match[1] for match in _MARKED.finditer(text)]


def filled(text: str) -> str:
    """A page with every table between its markers written anew."""
    return _MARKED.sub(lambda match: f"{match[1]}{match[2]}{TABLES[match[1]]()}\n", text)


@click.command()
@click.option("--check", is_flag=True, help="Only say whether the pages are up to date.")
def main(check: bool) -> None:
    for path in PAGES:
        before = path.read_text(encoding="utf-8")
        after = filled(before)
        if check and after != before:
            raise click.ClickException(f"{path.name}: its tables are out of date; run tools/benchmark_tables.py")
        path.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
