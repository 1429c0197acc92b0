"""Networks that the engine does not run, on a page with onnxruntime-web: a stand-in, and the package where it is."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from browser import NetworksPage, chromium, needs_chromium, served
from native_engine import packed
from nets import quantized
from PIL import Image
from playwright.sync_api import Browser

from edgeq.data.preprocess import Preprocess
from edgeq.errors import ArtifactError, UnsupportedError
from edgeq.exporters.web.contents import read_page
from edgeq.exporters.web.export import WebForm, export_web
from edgeq.exporters.web.onnxruntime_web import FILES
from edgeq.ir.network import Network

PACKAGE = os.environ.get("EDGEQ_ONNXRUNTIME_WEB")
"""The folder of the npm package."""

PREPROCESS = Preprocess(18, 16, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
STAND_IN = """
export const env = { wasm: {} };
export class Tensor { constructor(type, data, dims) { Object.assign(this, { type, data, dims }); } }
let runs = 0;
const answers = Uint8Array.from(atob("ANSWERS"), (c) => c.charCodeAt(0)).buffer;
export const InferenceSession = { async create(program, options) {
  if (new TextDecoder().decode(env.wasm.wasmBinary) !== "engine") throw new Error("no engine");
  if (program[0] !== 8 || env.wasm.numThreads !== 1) throw new Error("no model");
  return { async run({ image }) {
    if (`${[image.type, image.data.length, ...image.dims]}` !== "float32,768,1,3,16,16") throw new Error("no image");
    return { logits: { data: new Float32Array(answers, (runs++ % 2) * 24, 6) } };
  } };
} };
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(params=["stand-in", "package"])
def package(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "package":
        if PACKAGE is None:
            pytest.skip("no folder of onnxruntime-web in EDGEQ_ONNXRUNTIME_WEB")
        return Path(PACKAGE)
    (tmp_path / "stand-in/dist").mkdir(parents=True)
    for name, content in zip(FILES, ("", "engine"), strict=True):
        (tmp_path / "stand-in/dist" / name).write_text(content)
    answering = export_web({"fp32": floats()}, tmp_path / "asked", form_of(tmp_path / "stand-in"))
    answers = (tmp_path / "asked" / answering["about"]["fp32"]["answers"]["file"]).read_bytes()
    module = STAND_IN.replace("ANSWERS", base64.b64encode(answers).decode())
    (tmp_path / "stand-in/dist" / FILES[0]).write_text(module)
    return tmp_path / "stand-in"


def floats() -> Network:
    return quantized("residual", "4bit").network


def form_of(package: Path | None) -> WebForm:
    return WebForm("residual", PREPROCESS, onnxruntime_web=package)


def test_the_engine_runs_what_it_can_and_the_package_the_rest(package: Path, tmp_path: Path) -> None:
    networks = {"4bit": packed("residual", "4bit"), "fp32": floats()}
    made = export_web(networks, tmp_path / "page", form_of(package))
    assert [about["engine"] for about in made["about"].values()] == ["integer", "onnxruntime-web"]
    about = made["about"]["fp32"]
    assert (about["program"], about["arena"], about["equal"]) == ("fp32.onnx", None, None)
    assert about["inputs"] == [{"name": "image", "shape": [3, 16, 16], "type": "float32"}]
    assert about["answers"]["allowed"] == 1e-6
    for name in FILES:
        content = (package / "dist" / name).read_bytes()
        assert (tmp_path / "page" / name).read_bytes() == content
        assert made["code"][name] == len(content)
    session = onnxruntime.InferenceSession(tmp_path / "page/fp32.onnx")
    assert [one.name for one in session.get_outputs()] == [end["name"] for end in about["outputs"]]
    assert json.loads((tmp_path / "page/fp32.json").read_text())["engine"] == "onnxruntime-web"
    assert read_page(tmp_path / "page")["about"]["fp32"]["engine"] == "onnxruntime-web"


def test_pages_without_need_of_it_have_none_of_its_code(package: Path, tmp_path: Path) -> None:
    made = export_web({"4bit": packed("residual", "4bit")}, tmp_path / "page", form_of(package))
    assert not {*made["code"]} & {*FILES}
    assert "blob:" not in (tmp_path / "page/index.html").read_text().partition("script-src")[2].partition(";")[0]


@needs_chromium
@pytest.mark.parametrize("place", ["file", "server"])
def test_a_float_network_beside_a_quantized_one(package: Path, place: str, browser: Browser, tmp_path: Path) -> None:
    networks = {"4bit": packed("residual", "4bit"), "fp32": floats()}
    output = tmp_path / ("page.html" if place == "file" else "page")
    export_web(networks, output, form_of(package))
    with served(tmp_path) as server:
        seen = NetworksPage(browser.new_page(), output.as_uri() if place == "file" else f"{server}/page/")
        assert seen.problem == ""
        first, second = seen.page.locator("article").all_inner_texts()
        assert "to the bit" in first
        assert "by onnxruntime-web" in second
        assert "✓ Self-test: as ONNX Runtime up to rounding" in second or "12 of 12 outputs equal" in second
        assert FILES[0] in seen.page.locator("footer").inner_text()
        image = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(image, "png")
        seen.choose(image.getvalue())
        assert [len(seen.labels(number)) for number in (0, 1)] == [5, 5]
        assert all(url.startswith((seen.address, "blob:")) for url in seen.requests)
        assert seen.complaints == []
        seen.page.close()


def test_a_folder_without_it_is_one_line(tmp_path: Path) -> None:
    expected = (
        f"{tmp_path}: expected the folder of onnxruntime-web with dist/{FILES[0]} and dist/{FILES[1]}, found No such "
        "file or directory; npm install onnxruntime-web makes it, node_modules/onnxruntime-web"
    )
    with pytest.raises(ArtifactError) as raised:
        export_web({"fp32": floats()}, tmp_path / "page", form_of(tmp_path))
    assert str(raised.value) == expected
    assert not (tmp_path / "page").exists()


def test_without_it_such_networks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError):
        export_web({"fp32": floats()}, tmp_path / "page", form_of(None))
    assert not (tmp_path / "page").exists()
