"""Figures: the drawn bars, points and texts carry the numbers of the artifacts; the PNG is one for a slide."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from records import layer, record_of

from edgeq.artifacts.files import check_output
from edgeq.data.preprocess import Preprocess
from edgeq.errors import ArtifactError, OutputError
from edgeq.evaluation.accuracy import EvaluationReport, ModelScore
from edgeq.evaluation.latency import BenchModel, BenchReport, summarize
from edgeq.evaluation.memory import Memory
from edgeq.planning.plan import plan
from edgeq.planning.recipe import Recipe
from edgeq.reports import figures
from edgeq.reports.figures import Body
from edgeq.runtimes.jobs import TensorType

WIDTHS = {"fp32": [32] * 4, "8bit": [8] * 4, "4bit": [4] * 4, "2bit": [2] * 4, "adaptive": [8, 8, 4, 2]}
LAYERS = [("stem", "conv", 100), ("dw", "depthwise", 100), ("pw", "conv", 800), ("fc", "conv", 1000)]
MEGABYTES = {"fp32": 13.96, "8bit": 3.66, "4bit": 1.93, "2bit": 1.06, "adaptive": 1.40}
BITOPS = {"fp32": 308e9, "8bit": 19.25e9, "4bit": 9.625e9, "2bit": 4.8125e9, "adaptive": 11e9}
ACCURACY = {"8bit": 79.1, "4bit": 78.6, "2bit": 42.2, "adaptive": 77.0}


def manifest(scheme: str, **changes: Any) -> dict[str, Any]:
    layers = [
        {"name": name, "kind": kind, "weights": weights, "position": i, "bits": bits, "bytes": weights * bits // 8}
        for i, ((name, kind, weights), bits) in enumerate(zip(LAYERS, WIDTHS[scheme], strict=True))
    ]
    return {
        "file": f"net-{scheme}.onnx",
        "bytes": round(MEGABYTES[scheme] * 1e6),
        "scheme": scheme,
        "bitops": BITOPS[scheme],
        "network": {"model": "mobilenet_v2", "weights": "some/folder/mine.safetensors", "classes": 1000},
        "layers": layers[::-1],  # the order of execution is in `position`
        **changes,
    }


MANIFESTS = [manifest(scheme) for scheme in ("adaptive", "2bit", "fp32", "8bit", "4bit")]


def bench_report(medians: dict[str | None, float]) -> dict[str, Any]:
    """A report as `bench` makes it, with samples that have these medians; the scheme None is a foreign file."""
    models = [BenchModel(f"net-{scheme}", Path("net"), (TensorType((3, 8, 8)),), None, scheme) for scheme in medians]
    sizes = [round(MEGABYTES.get(scheme or "", 5.0) * 1e6) for scheme in medians]
    samples = [[median, median, 2 * median] for median in medians.values()]
    rows = summarize(models, sizes, samples, [Memory(1.0, 1, 1, "none")] * len(models))
    where = {"cpu": "Test CPU", "logical_cores": 2, "versions": {"onnxruntime": "1.99"}}
    report = BenchReport("onnxruntime", 1, 1, 3, 0, rows, (), where)
    body: dict[str, Any] = json.loads(json.dumps(report.to_dict()))
    return body


def evaluation(top1: dict[str, float], reference: float | None = 79.46) -> dict[str, Any]:
    """A report as `evaluate` makes it."""
    score = ModelScore("reference", reference, reference, 100.0, None, ())
    models = tuple(replace(score, name=name, top1=value) for name, value in top1.items())
    preprocess = Preprocess(resize=256, crop=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    report = EvaluationReport("val", preprocess, 1300, (), None, "top1", score, models)
    body: dict[str, Any] = json.loads(json.dumps(report.to_dict()))
    return body


def bars(axes: Axes) -> list[Rectangle]:
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def rows_of(axes: Axes) -> dict[str, tuple[float, str, str]]:
    """Label -> (length, colour, text) of horizontal bars."""
    labels = [label.get_text() for label in axes.get_yticklabels()]
    found = [(bar.get_width(), to_hex(bar.get_facecolor()).upper()) for bar in bars(axes)]
    return {
        label: (length, colour, text) for label, (length, colour), text in zip(labels, found, texts(axes), strict=True)
    }


def title(figure: Figure) -> str:
    return " ".join(figure.get_suptitle().split())


def test_bitops_values_colours_and_ratios() -> None:
    figure = figures.bitops_figure(MANIFESTS)
    everything, quantized = figure.axes
    assert rows_of(everything) == {
        "fp32": (308.0, figures.COLOURS["fp32"], "308.00 G"),
        "8bit": (19.25, figures.COLOURS["8bit"], "19.25 G\n16x fewer"),
        "4bit": (9.625, figures.COLOURS["4bit"], "9.62 G\n32x fewer"),
        "2bit": (4.8125, figures.COLOURS["2bit"], "4.81 G\n64x fewer"),
        "adaptive": (11.0, figures.COLOURS["adaptive"], "11.00 G\n28x fewer"),
    }
    assert rows_of(quantized) == {k: v for k, v in rows_of(everything).items() if k != "fp32"}
    assert title(figure) == "Fewer BitOps than fp32: 8bit 16x, 4bit 32x, 2bit 64x, adaptive 28x"


def test_bitops_without_fp32_claims_no_ratio() -> None:
    figure = figures.bitops_figure([manifest("4bit")])
    assert rows_of(figure.axes[0]) == {"4bit": (9.625, figures.COLOURS["4bit"], "9.62 G")}
    assert title(figure) == "BitOps of one inference"


def test_two_files_of_one_scheme_are_told_apart_by_name() -> None:
    figure = figures.bitops_figure([manifest("4bit"), manifest("4bit", file="net-4bit-a32.onnx"), manifest("8bit")])
    assert list(rows_of(figure.axes[0])) == ["8bit", "net-\n4bit", "net-\n4bit-a32"]


def by_position(axes: Axes) -> list[float]:
    """Heights of vertical bars from left to right."""
    return [bar.get_height() for bar in sorted(bars(axes), key=lambda bar: bar.get_x())]


def test_bits_and_bytes_by_position() -> None:
    figure = figures.bits_by_position_figure(MANIFESTS)
    top, bottom = figure.axes
    assert by_position(top) == [8, 8, 4, 2]
    assert by_position(bottom) == [0.1, 0.1, 0.4, 0.25]
    hatched = [bar.get_x() + bar.get_width() / 2 for bar in bars(top) if bar.get_hatch()]
    assert hatched == [1.0], "the depthwise layer, and only it, is marked"
    lines = {tuple(np.asarray(line.get_ydata())): line.get_color() for line in top.lines}
    assert lines == {(bits,) * 4: figures.COLOURS[f"{bits}bit"] for bits in (8, 4, 2)}
    assert sorted(texts(top)) == ["2bit", "4bit", "8bit", "stem"]
    assert texts(bottom) == ["pw: 0.4 kB"]
    # Weights 100 and 100 at 8 bits, 800 at 4, 1000 at 2: 6800 bits for 2000 weights; 200 of 2000 at 8 bits.
    assert title(figure) == "adaptive: 3.40 bits a weight, 10% of them in 2 layers at 8 bits"


def test_bits_of_a_uniform_scheme() -> None:
    assert title(figures.bits_by_position_figure([manifest("4bit")])) == "4bit: all 4 layers at 4 bits"


def test_bits_of_fp32_alone() -> None:
    with pytest.raises(ArtifactError, match="expected a manifest of a quantized model, found fp32 only"):
        figures.bits_by_position_figure([manifest("fp32")])


def test_size_and_latency() -> None:
    figure = figures.size_latency_figure(MANIFESTS, bench_report({"4bit": 3.5, "fp32": 7.0, None: 5.0}))
    size, latency = figure.axes
    assert rows_of(size) == {
        "fp32": (13.96, figures.COLOURS["fp32"], "13.96 MB"),
        "4bit": (1.93, figures.COLOURS["4bit"], "1.93 MB"),
        "net-\nNone": (5.0, "#CC79A7", "5.00 MB"),
    }
    assert {label: (length, text) for label, (length, _, text) in rows_of(latency).items()} == {
        "fp32": (7.0, "7.00 ms"),
        "4bit": (3.5, "3.50 ms\n2.00x as fast"),
        "net-\nNone": (5.0, "5.00 ms\n1.40x as fast"),
    }
    # 13.96 / 1.93 = 7.23; the foreign file is shown, but nothing is claimed for it.
    assert title(figure) == "7.2x smaller than fp32, and 2.0x as fast"
    footnote = " ".join(figure.get_supxlabel().split())
    assert footnote == (
        "Test CPU, 2 cores, onnxruntime 1.99, 1 thread, batch 1; mobilenet_v2, 1000 classes, mine.safetensors weights"
    )


def test_size_and_latency_without_fp32() -> None:
    figure = figures.size_latency_figure(MANIFESTS, bench_report({"4bit": 3.5}))
    assert texts(figure.axes[1]) == ["3.50 ms"]
    assert title(figure) == "File size and latency"


def test_a_range_of_ratios_in_the_title() -> None:
    figure = figures.size_latency_figure(MANIFESTS, bench_report({"2bit": 7.0, "8bit": 3.5, "fp32": 7.0}))
    assert title(figure) == "3.8 to 13.2x smaller than fp32, and 1.0 to 2.0x as fast"


def test_accuracy_against_size() -> None:
    named_by_file = {f"net-{scheme}": top1 for scheme, top1 in ACCURACY.items()}
    figure = figures.accuracy_size_figure(MANIFESTS, evaluation(named_by_file))
    (axes,) = figure.axes
    points = np.asarray(axes.collections[0].get_offsets())
    expected = [(3.66, 79.1), (1.93, 78.6), (1.06, 42.2), (1.40, 77.0)]
    np.testing.assert_allclose(points, expected)
    assert list(np.asarray(axes.lines[0].get_ydata())) == [79.46, 79.46]
    assert texts(axes) == [
        "fp32 reference 79.46 %",
        "8bit\n79.10 %, 3.66 MB",
        "4bit\n78.60 %, 1.93 MB",
        "2bit\n42.20 %, 1.06 MB",
        "adaptive\n77.00 %, 1.40 MB",
    ]
    assert title(figure) == "4bit is the smallest within 1 point of fp32: 1.93 MB, -0.86 points"


def test_accuracy_of_another_tools_file() -> None:
    """It has no manifest, even where its name is that of a file that has one."""
    report = evaluation({"net-8bit": 79.1, "net-4bit": 78.0})
    report["models"][1] |= {"scheme": None, "bytes": 2_500_000}
    figure = figures.accuracy_size_figure(MANIFESTS, report)
    np.testing.assert_allclose(np.asarray(figure.axes[0].collections[0].get_offsets()), [(3.66, 79.1), (2.5, 78.0)])
    assert texts(figure.axes[0])[1:] == ["8bit\n79.10 %, 3.66 MB", "net-4bit\n78.00 %, 2.50 MB"]


def test_accuracy_rows_may_be_named_by_scheme() -> None:
    figure = figures.accuracy_size_figure(MANIFESTS, evaluation({"2bit": 42.2, "adaptive": 77.0}))
    assert title(figure) == "adaptive is closest to fp32: 1.40 MB, -2.46 points"


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (evaluation({"other": 50.0}), "expected a manifest for every evaluated model, found none for other"),
        (evaluation({}), "expected at least one model, found none"),
        (evaluation({}, reference=None), "expected an evaluation with labels, found none"),
    ],
)
def test_accuracy_that_cannot_be_drawn(report: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        figures.accuracy_size_figure(MANIFESTS, report)


FIGURES: list[tuple[str, Callable[[Sequence[Body]], Figure], Callable[[Sequence[Body], Path], None]]] = [
    ("bitops", figures.bitops_figure, figures.plot_bitops),
    ("bits", figures.bits_by_position_figure, figures.plot_bits_by_position),
    (
        "latency",
        lambda m: figures.size_latency_figure(m, bench_report({"fp32": 7.0, "4bit": 3.5})),
        lambda m, path: figures.plot_size_latency(m, bench_report({"fp32": 7.0, "4bit": 3.5}), path),
    ),
    (
        "accuracy",
        lambda m: figures.accuracy_size_figure(m, evaluation(ACCURACY)),
        lambda m, path: figures.plot_accuracy_size(m, evaluation(ACCURACY), path),
    ),
]
IDS = [name for name, _, _ in FIGURES]


@pytest.mark.parametrize(("_", "build", "plot"), FIGURES, ids=IDS)
class TestEveryFigure:
    def test_png(self, _: str, build: Any, plot: Any, tmp_path: Path) -> None:
        path = tmp_path / "figure.png"
        plot(MANIFESTS, path)
        with Image.open(path) as image:
            assert (image.format, image.size) == ("PNG", (1920, 1080))
        check_output(path)  # counts as written by edgeq, so that it may be replaced
        assert list(tmp_path.iterdir()) == [path]

    def test_texts_are_large_and_inside(self, _: str, build: Any, plot: Any) -> None:
        figure: Figure = build(MANIFESTS)
        figure.draw_without_rendering()
        notes = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
        ticks = [label for axes in figure.axes for label in (*axes.get_xticklabels(), *axes.get_yticklabels())]
        names = [name for axes in figure.axes for name in (axes.xaxis.label, axes.yaxis.label)]
        assert all(float(text.get_fontsize()) >= 14 for text in (*notes, *ticks, *names))
        for text in (*notes, *names):
            if not text.get_text():
                continue
            box, (width, height) = text.get_window_extent(), figure.bbox.size
            assert 0 <= box.x0 < box.x1 <= width, text.get_text()
            assert 0 <= box.y0 < box.y1 <= height, text.get_text()

    def test_notes_do_not_overlap(self, _: str, build: Any, plot: Any) -> None:
        figure: Figure = build(MANIFESTS)
        figure.draw_without_rendering()
        for axes in figure.axes:
            boxes = [text.get_window_extent() for text in axes.texts]
            assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])

    def test_names_the_network(self, _: str, build: Any, plot: Any) -> None:
        assert "mobilenet_v2, 1000 classes, mine.safetensors weights" in " ".join(
            build(MANIFESTS).get_supxlabel().split()
        )

    def test_two_networks(self, _: str, build: Any, plot: Any) -> None:
        other = manifest("2bit", network={"model": "squeezenet1_1", "weights": "embedded", "classes": 1000})
        with pytest.raises(
            ArtifactError, match=r"expected manifests of one network, found mobilenet_v2, .* squeezenet"
        ):
            build([*MANIFESTS, other])

    def test_no_manifests(self, _: str, build: Any, plot: Any) -> None:
        with pytest.raises(ArtifactError, match="found none"):
            build([])

    def test_a_manifest_that_lacks_something(self, _: str, build: Any, plot: Any, tmp_path: Path) -> None:
        lacking = {key: value for key, value in manifest("adaptive").items() if key != "network"}
        with pytest.raises(ArtifactError, match=r"figure\.png: a manifest or report lacks 'network'; write it again"):
            plot([*MANIFESTS, lacking], tmp_path / "figure.png")
        assert not list(tmp_path.iterdir())

    def test_a_folder_that_does_not_exist(self, _: str, build: Any, plot: Any, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="cannot write"):
            plot(MANIFESTS, tmp_path / "missing" / "figure.png")


# --- sensitivity ----------------------------------------------------------------------------------------------------

SENSITIVE = record_of(
    [
        layer(i, sensitivity={8: 0.0, 4: 0.01 * worth, 3: 0.1 * worth} | dict.fromkeys((2, 1.6, 1.33, 1), worth))
        for i, worth in enumerate([1.0, 3.0, 1.0])
    ]
)


def points(axes: Axes) -> list[list[tuple[float, float]]]:
    """Places of the marks, for each width first of all layers, then of those that got it."""
    return [[(x, y) for x, y in np.asarray(marks.get_offsets())] for marks in axes.collections]


def test_sensitivity_of_all_layers_at_all_widths() -> None:
    (axes,) = figures.sensitivity_figure(plan(SENSITIVE, "4bit"), "net").axes
    eight, none, four, chosen, three, _, two, *_ = points(axes)
    assert eight == [(0, 0.01), (1, 0.01), (2, 0.01)], "no sensitivity stands at the least that there is"
    assert none == []
    assert four == chosen == [(0, 0.01), (1, 0.03), (2, 0.01)]
    assert three == [(0, 0.1), (1, 0.1 * 3), (2, 0.1)]
    assert two == [(0, 1.0), (1, 3.0), (2, 1.0)]
    assert axes.get_yscale() == "log"
    assert axes.get_legend_handles_labels()[1] == [f"{bits} bits" for bits in (8, 4, 3, 2, 1.6, 1.33, 1)]


def test_the_worst_layers_are_named_and_edged() -> None:
    figure = figures.sensitivity_figure(plan(SENSITIVE, "2bit"), "net")
    chosen = figure.axes[0].collections[7]  # of 2 bits
    edges = [to_hex(colour).upper() for colour in np.asarray(chosen.get_edgecolor())]
    assert [colour == figures.COLOURS["adaptive"] for colour in edges] == [False, True, False]
    assert title(figure) == "2bit: 1 of 3 layers have half of the sensitivity"
    assert "half of its sum, most of all layer1 (1)" in " ".join(figure.get_supxlabel().split())


def test_sensitivity_under_a_budget_and_of_fp32() -> None:
    figure = figures.sensitivity_figure(plan(SENSITIVE, Recipe("adaptive", budget="drop=1.5")), "net")
    assert title(figure) == "adaptive drop=1.5", "8 bits do no damage here"
    assert title(figures.sensitivity_figure(plan(SENSITIVE, "fp32"), "net")) == "fp32"


def test_sensitivity_as_a_file(tmp_path: Path) -> None:
    figures.plot_sensitivity(plan(SENSITIVE, "4bit"), "net", tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert (image.format, image.size) == ("PNG", (1920, 1080))
    check_output(tmp_path / "figure.png")
    assert list(tmp_path.iterdir()) == [tmp_path / "figure.png"]


# --- predictors of sensitivity --------------------------------------------------------------------------------------

COMPARED = {
    "network": MANIFESTS[0]["network"],
    "images": {"held_out": 64},
    "predictors": [{"name": "gradients", "spearman": 0.9876}, {"name": "weights", "spearman": 0.5}],
    "plans": [
        {"divergence": 0.5, "predicted": {"gradients": 0.25, "weights": 70.0}},
        {"divergence": 2.0, "predicted": {"gradients": 1.0, "weights": 20.0}},
    ],
}


def test_predicted_against_measured_sensitivity() -> None:
    figure = figures.predictors_figure(COMPARED)
    large, small = figure.axes
    assert np.asarray(large.lines[0].get_xydata()).tolist() == [[0.25, 0.5], [1.0, 2.0]]
    assert np.asarray(small.lines[0].get_xydata()).tolist() == [[70.0, 0.5], [20.0, 2.0]]
    assert {large.get_xscale(), large.get_yscale(), small.get_xscale(), small.get_yscale()} == {"log"}
    assert title(figure) == "Divergence of 2 random plans, predicted by gradients: rank correlation 0.988"
    assert small.get_title() == "weights: 0.500"
    assert "on 64 held-out images" in " ".join(figure.get_supxlabel().split())


def test_a_comparison_without_plans(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="lacks 'plans'"):
        figures.plot_predictors({k: v for k, v in COMPARED.items() if k != "plans"}, tmp_path / "figure.png")
    assert list(tmp_path.iterdir()) == []
