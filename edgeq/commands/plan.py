"""`edgeq plan`: the bits of every layer and what they cost; with a record, torch is not imported."""

from __future__ import annotations

from pathlib import Path

import click

from edgeq.artifacts.files import check_output, dumps
from edgeq.artifacts.record import CalibrationRecord
from edgeq.commands import options
from edgeq.commands.console import listening, print_json, show
from edgeq.commands.records import load_record, model_name
from edgeq.errors import BudgetError
from edgeq.planning.plan import VERSION, PrecisionPlan, plan
from edgeq.planning.recipe import Recipe
from edgeq.reports import tables


def draw(record: CalibrationRecord, widths: PrecisionPlan, path: Path, force: bool = False) -> None:
    """Draw the sensitivity of every layer at every width; `force` replaces a file that edgeq did not write.

    Raises:
        OutputError: the figure cannot be written.
    """
    check_output(path, force)
    from edgeq.reports.figures import plot_sensitivity

    plot_sensitivity(widths, model_name(record), path)


@click.command("plan")
@options.record
@options.recipe("scheme", "budget", "policy", "act_bits", "reduce_range")
@click.option(
    "--figure", type=options.PATH, metavar="FILE.png", help="Draw the sensitivity of every layer at every width, too."
)
@options.force
@options.json
def command(recipe: Recipe, record: Path | None, figure: Path | None, force: bool, as_json: bool) -> None:
    """Show the bits of every layer under a scheme or budget, what they cost, and which layers are sensitive.

    \b
    Example:
      edgeq plan --scheme adaptive --budget drop=1.0
    """
    with listening() as progress:
        calibrated = load_record(record, progress)
    widths = plan(calibrated, recipe)
    if figure:
        draw(calibrated, widths, figure, force)
    if as_json:
        print_json(dumps("plan", VERSION, widths.to_dict()))
    else:
        show(tables.plan_table(widths))
        click.echo(tables.plan_text(widths))
    if widths.missed:
        raise BudgetError(widths.missed)
