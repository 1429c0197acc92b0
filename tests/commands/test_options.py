"""The preprocessing of one's own, from the options of `edgeq calibrate` to every later command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from torchvision import transforms
from torchvision.datasets.folder import default_loader

from edgeq.cli import main
from edgeq.commands import options
from edgeq.data.preprocess import ChannelOrder, Interpolation, Layout, Preprocess
from edgeq.frontends import sources
from edgeq.frontends.sources import Source

Capture = pytest.CaptureFixture[str]

SMALL = ("--resize", "40", "--crop", "32", "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5")
RECORDED = Preprocess(40, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def run(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    found = capsys.readouterr()
    return code, found.out, found.err


@pytest.fixture
def photos(tiny: Path) -> Path:
    for index in range(8):
        path = tiny / "photos" / str(index % 2) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (50, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return tiny / "photos"


def calibrate(capsys: Capture, photos: Path, *arguments: str) -> str:
    """Calibrate a file of weights, and return what stderr says of its preprocessing."""
    code, _, err = run(capsys, "calibrate", "--weights", "w.pt", "--data", photos, "--samples", 8, *arguments)
    assert code == 0, err
    return err.rpartition("assumed ")[2]


def preprocess_in(path: str) -> Preprocess:
    return Preprocess.from_dict(json.loads(Path(path).read_text())["preprocess"])


def test_the_options_know_every_part() -> None:
    assert list(options.PREPROCESS) == list(RECORDED.to_dict())
    assert get_args(Interpolation) == options.INTERPOLATIONS
    assert get_args(ChannelOrder) == options.CHANNEL_ORDERS
    assert get_args(Layout) == options.LAYOUTS


def test_a_network_of_small_images(photos: Path, capsys: Capture) -> None:
    """Through all commands, with what the record says and no option for it."""
    calibrate(capsys, photos, *SMALL)
    record = json.loads(Path("calib/mobilenet_v2.calib").read_text())
    assert record["network"]["preprocess"] == record["preprocess"] == json.loads(json.dumps(RECORDED.to_dict()))
    for more in ((), ("--input", "uint8")):
        assert run(capsys, "export", "--scheme", "fp32", *more)[0] == 0
    assert preprocess_in("exports/mobilenet_v2-fp32.json") == RECORDED
    assert preprocess_in("exports/mobilenet_v2-fp32-uint8.json") == RECORDED.to_pixels()
    for name, shape in (("", [3, 32, 32]), ("-uint8", [32, 32, 3])):
        taken = onnx.load(f"exports/mobilenet_v2-fp32{name}.onnx").graph.input[0].type.tensor_type.shape.dim
        assert [dim.dim_value for dim in taken][1:] == shape
    code, _, err = run(capsys, "evaluate", "--data", photos)
    assert code == 0, err
    body = json.loads(Path("exports/evaluation.json").read_text())
    assert Preprocess.from_dict(body["preprocess"]) == RECORDED
    as_pixels, as_float = sorted(body["models"], key=lambda row: row["name"], reverse=True)
    assert min(as_float["sqnr_db"], as_pixels["sqnr_db"]) > 40
    assert run(capsys, "sweep", "--data", photos, "--budgets", "bitops=1G")[0] == 0
    assert json.loads(Path("exports/sweep/sweep.json").read_text())["rows"][0]["sqnr_db"] > 80
    assert run(capsys, "bench", "--runs", "2")[0] == 0


def test_the_file_answers_to_images_as_torchvision_prepares_them(photos: Path, capsys: Capture, tiny_load: Any) -> None:
    more = ("--resize", "40,48", "--crop", "32,40", "--interpolation", "bicubic", "--std", "0.5,0.25,0.2")
    calibrate(capsys, photos, *more, "--mean", "0.5,0.4,0.3", "--channel-order", "bgr")
    for kind in ("float", "uint8"):
        assert run(capsys, "export", "--scheme", "fp32", "--input", kind)[0] == 0
    cut = [transforms.Resize((40, 48), transforms.InterpolationMode.BICUBIC), transforms.CenterCrop((32, 40))]
    image = transforms.Compose(cut)(default_loader(photos / "0/0.png"))
    swapped = transforms.ToTensor()(image)[[2, 1, 0]]
    normalized = transforms.Normalize((0.5, 0.4, 0.3), (0.5, 0.25, 0.2))(swapped)[None]
    expected = tiny_load(preprocess=preprocess_in("exports/mobilenet_v2-fp32.json")).network(normalized).detach()
    for name, taken in (("", normalized.numpy()), ("-uint8", np.asarray(image)[None])):
        session = onnxruntime.InferenceSession(f"exports/mobilenet_v2-fp32{name}.onnx")
        np.testing.assert_allclose(session.run(None, {"image": taken})[0], expected, atol=2e-3)


@pytest.mark.parametrize(
    ("given", "assumed"),
    [
        (
            (),
            "--resize 256 --crop 224 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --interpolation bilinear "
            "--channel-order rgb",
        ),
        (SMALL, "--interpolation bilinear --channel-order rgb"),
        (("--crop", "32,48", "--channel-order", "bgr"),
         "--resize 256 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --interpolation bilinear"),
        ((*SMALL, "--interpolation", "box", "--channel-order", "rgb"), None),
    ],
    ids=["nothing", "most", "some", "all"],
)  # fmt: skip
def test_what_nobody_has_said_is_said(
    given: tuple[str, ...], assumed: str | None, photos: Path, capsys: Capture
) -> None:
    found = calibrate(capsys, photos, *given)
    expected = f"as for torchvision's weights of mobilenet_v2: {assumed}\n"
    assert found.startswith(expected) if assumed else "assumed" not in found


def test_what_is_usual_depends_on_the_network(photos: Path, capsys: Capture) -> None:
    found = calibrate(capsys, photos, "--model", "efficientnet_b1")
    assert found.startswith("as for torchvision's weights of efficientnet_b1: --resize 256 --crop 240 --mean 0.485,")
    assert "--interpolation bicubic" in found
    assert preprocess_in("calib/efficientnet_b1.calib").shape == (3, 240, 240)


def test_what_is_known_is_not_said(tiny: Path, capsys: Capture) -> None:
    assert run(capsys, "calibrate")[::2] == (0, "")


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (("--mean", "1,2"), 2, "'--mean': expected 1 or 3 numbers with commas between them, found '1,2'"),
        (("--std", "a,b,c"), 2, "'--std': expected 1 or 3 numbers with commas between them, found 'a,b,c'"),
        (("--resize", "9x9"), 2, "'--resize': expected 1 or 2 whole numbers with commas between them, found '9x9'"),
        (("--crop", "1.5"), 2, "'--crop': expected 1 or 2 whole numbers with commas between them, found '1.5'"),
        (("--interpolation", "area"), 2, "'--interpolation': 'area' is not one of 'nearest', "),
        (("--channel-order", "gbr"), 2, "'--channel-order': 'gbr' is not one of 'rgb', 'bgr'"),
        (("--crop", "288"), 1, "error: expected 1 <= crop <= resize, found crop 288 and resize 256; change one of"),
        (("--mean", "124,116,104"), 1, "error: expected mean in 0..1 and std above 0, at most 1, both of pixels sc"),
        (("--std", "0.5,0,0.5"), 1, "error: expected mean in 0..1 and std above 0, at most 1, both of pixels scaled"),
    ],
)  # fmt: skip
def test_nonsense(given: tuple[str, str], code: int, message: str, photos: Path, capsys: Capture) -> None:
    found, _, err = run(capsys, "calibrate", "--weights", "w.pt", "--data", photos, *given)
    assert found == code
    assert message in err
    assert not Path("calib").exists()


@pytest.mark.parametrize(
    ("path", "taken"),
    [
        ("calib/mobilenet_v2.calib", "mean 0.5,0.5,0.5, std 0.5,0.5,0.5, interpolation bilinear, channel order rgb"),
        ("exports/mobilenet_v2-8bit.json", "mean 0.5,0.5,0.5, std 0.5,0.5,0.5, interpolation bilinear, channel order"),
        ("exports/mobilenet_v2-8bit.onnx", "mean 0.5,0.5,0.5, std 0.5,0.5,0.5, interpolation bilinear, channel order"),
        ("exports/mobilenet_v2-8bit-uint8.onnx",
         "mean 0.0,0.0,0.0, std 1.0,1.0,1.0, interpolation bilinear, channel order rgb (uint8, rows x columns x chan"),
    ],
)  # fmt: skip
def test_inspect_shows_it(path: str, taken: str, photos: Path, capsys: Capture) -> None:
    calibrate(capsys, photos, *SMALL)
    for kind in ("float", "uint8"):
        run(capsys, "export", "--scheme", "8bit", "--input", kind)
    shown = run(capsys, "inspect", path)[1].splitlines()[-2]
    assert shown.startswith(f"images: resize 40, crop 32, {taken}")


def test_inspect_refuses_what_makes_no_sense(photos: Path, capsys: Capture) -> None:
    calibrate(capsys, photos, *SMALL)
    path = Path("calib/mobilenet_v2.calib")
    path.write_text(path.read_text().replace('"resize": 40', '"resize": 4'))
    code, out, err = run(capsys, "inspect", path)
    assert (code, out) == (1, "")
    assert err.startswith("error: expected resize, crop, ")
    assert err.count("\n") == 1


def test_files_of_two_preprocessings_have_no_reference_in_common(photos: Path, capsys: Capture) -> None:
    for name, more in (("a", SMALL), ("b", (*SMALL, "--interpolation", "bicubic"))):
        calibrate(capsys, photos, *more, "--output", f"{name}.calib")
        run(capsys, "export", "--scheme", "fp32", "--record", f"{name}.calib", "--output", f"{name}.onnx")
    code, _, err = run(capsys, "evaluate", "a.onnx", "b.onnx", "--data", photos)
    assert code == 1
    assert "b.onnx: expected a model of the same network as a.onnx, found one of other preprocessing; evaluate" in err


def test_a_record_of_the_version_before_is_refused(photos: Path, capsys: Capture) -> None:
    calibrate(capsys, photos)
    path = Path("calib/mobilenet_v2.calib")
    path.write_text(path.read_text().replace('"version": 8', '"version": 7', 1))
    code, _, err = run(capsys, "plan", "--scheme", "8bit")
    assert code == 1
    assert re.search(r"expected version 8 of an edgeq record, found 7", err)


def test_every_stage_loads_the_network_with_what_is_recorded(
    photos: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torchvision says may change with its version; a record does not."""
    calibrate(capsys, photos, *SMALL)
    loaded = []

    def load(model: str, weights: str, preprocess: Preprocess, **options: Any) -> Source:
        loaded.append(preprocess)
        found: Source = original(model, weights, preprocess, **options)
        return found

    original: Any = sources.load
    monkeypatch.setattr(sources, "load", load)
    for command in (("export", "--scheme", "fp32"), ("evaluate", "--data", photos), ("bench", "--runs", "2")):
        assert run(capsys, *command)[0] == 0
    assert set(loaded) == {RECORDED}


def test_arrays_in_place_of_images(photos: Path, capsys: Capture) -> None:
    """The arrays that the preprocessing makes of images give the same file as the images themselves."""
    given = ("calibrate", "--weights", "w.pt", *SMALL, "--samples", "8")
    assert run(capsys, *given, "--data", photos)[0] == 0
    Path("arrays").mkdir()
    for path in photos.rglob("*.png"):
        np.save(f"arrays/{path.parent.name}-{path.stem}.npy", RECORDED(Image.open(path)))
    code, _, err = run(capsys, *given, "--data", "arrays", "--output", "calib/arrays.calib")
    assert code == 0
    assert "arrays: 8 files of arrays, taken as the network takes them, without preprocessing" in err
    images, arrays = (json.loads(Path(f"calib/{name}.calib").read_text()) for name in ("mobilenet_v2", "arrays"))
    assert (arrays["preprocess"], arrays["data"]["source"], len(arrays["data"]["files"])) == ({}, "arrays", 8)
    same = images.keys() - {"preprocess", "data"}
    assert {name: arrays[name] for name in same} == {name: images[name] for name in same}
    for more in (("--output", "images.onnx"), ("--record", "calib/arrays.calib", "--output", "arrays.onnx")):
        assert run(capsys, "export", "--scheme", "4bit", *more)[0] == 0
    assert Path("images.onnx").read_bytes() == Path("arrays.onnx").read_bytes()
    code, _, err = run(capsys, "export", "--scheme", "4bit", "--input", "uint8", "--record", "calib/arrays.calib")
    assert (code, err) == (
        1,
        "error: expected a record of images, found one of arrays, whose normalization is unknown; leave out "
        "--input uint8\n",
    )
    assert "images:" not in run(capsys, "inspect", "calib/arrays.calib")[1]


def test_arrays_that_do_not_fit(photos: Path, capsys: Capture) -> None:
    Path("arrays").mkdir()
    np.save("arrays/a.npy", np.zeros((3, 40, 32)))
    code, _, err = run(capsys, "calibrate", "--weights", "w.pt", *SMALL, "--data", "arrays", "--samples", "1")
    assert code == 1
    assert err.splitlines()[-1] == "error: arrays/a.npy: expected an array [3, 32, 32], found [3, 40, 32]"
    assert not [*Path("calib").glob("*")]
