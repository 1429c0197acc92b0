"""The page of networks in Chromium: it sees images and the camera, answers to the bit, and asks for nothing."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import NetworksPage, chromium, needs_chromium, served
from native_engine import packed
from PIL import Image
from playwright.sync_api import Browser, Route, expect

from edgeq.data.preprocess import Preprocess
from edgeq.exporters.onnx.model import to_onnx, translate
from edgeq.exporters.parity import overflows, runner
from edgeq.exporters.web.export import WebForm, export_web
from edgeq.ir.batches import Images

pytestmark = needs_chromium

NAMES = ("8bit", "4bit", "2bit")
LABELS = ("ant", "bee", "cat", "dog", "elk", "fox")
PREPROCESS = Preprocess(18, 16, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page as a folder, `page`, and as one file, `page.html`."""
    folder = tmp_path_factory.mktemp("web")
    networks = {name: packed("residual", name) for name in NAMES}
    for output in (folder / "page", folder / "page.html"):
        export_web(networks, output, WebForm("residual", PREPROCESS, LABELS))
    return folder


@pytest.fixture(scope="module")
def server(made: Path) -> Iterator[str]:
    with served(made) as address:
        yield address


@pytest.fixture(params=["file", "server"])
def seen(request: pytest.FixtureRequest, browser: Browser, made: Path, server: str) -> Iterator[NetworksPage]:
    """The single file from the disk, and the folder from a server."""
    page = browser.new_page()
    address = (made / "page.html").as_uri() if request.param == "file" else f"{server}/page/"
    found = NetworksPage(page, address)
    yield found
    asked = [url for url in found.requests if not url.startswith(("blob:", "data:"))]
    if request.param == "file":
        assert asked == [address]
    else:
        assert all(url.startswith(address) for url in asked)
    assert found.complaints == []
    page.close()


def image_of(seed: int, width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def test_every_network_proves_itself(seen: NetworksPage) -> None:
    assert seen.problem == ""
    assert seen.page.locator("article h2").all_inner_texts() == [*NAMES]
    for text in seen.page.locator(".check").all_inner_texts():
        assert text == "✓ Self-test: 12 of 12 outputs equal ONNX Runtime's, to the bit"
    assert "edgeq.js" in seen.page.locator("footer").inner_text()


def test_a_chosen_image_gets_its_five_classes(seen: NetworksPage) -> None:
    seen.choose(png(image_of(0, 40, 30)))
    for network in range(len(NAMES)):
        labels = seen.labels(network)
        assert len(labels) == 5
        assert {*labels} < {*LABELS}
        shares = [
            float(text[:-2]) for text in seen.page.locator("article").nth(network).locator(".share").all_inner_texts()
        ]
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 100.3
    assert all(text.endswith(" ms") for text in seen.page.locator(".time").all_inner_texts())
    assert seen.page.locator("#view").get_attribute("aria-label") == "an.png"


def test_a_dropped_image(seen: NetworksPage) -> None:
    script = """text => {
      const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0)), data = new DataTransfer();
      data.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
      const event = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
      document.querySelector("#drop").dispatchEvent(event);
    }"""
    seen.page.evaluate(script, base64.b64encode(png(image_of(1, 20, 50))).decode())
    assert len(seen.labels()) == 5


def test_of_two_images_the_last_one_is_shown(seen: NetworksPage) -> None:
    first, last = png(image_of(3, 900, 700)), png(image_of(4, 30, 30))
    shares = seen.page.locator(".share")
    seen.choose(last, "last.png")
    seen.labels(len(NAMES) - 1)
    alone = shares.all_inner_texts()
    seen.choose(first, "first.png")
    seen.choose(last, "last.png")
    seen.page.wait_for_timeout(500)
    assert shares.all_inner_texts() == alone
    assert seen.page.locator("#view").get_attribute("aria-label") == "last.png"


def test_an_image_that_is_chosen_early_waits_for_the_networks(browser: Browser, server: str) -> None:
    page = browser.new_page()

    def late(route: Route) -> None:
        page.wait_for_timeout(300)
        route.continue_()

    page.route("**/8bit.eqp", late)
    page.goto(f"{server}/page/")
    page.set_input_files("#file", {"name": "an.png", "mimeType": "image/png", "buffer": png(image_of(0, 40, 30))})
    expect(page.locator(".label")).to_have_count(5 * len(NAMES))
    page.close()


def test_an_engine_that_is_missing_is_done_without(browser: Browser, made: Path, server: str) -> None:
    shutil.copytree(made / "page", made / "plain")
    (made / "plain/edgeq-relaxed.wasm").unlink()
    seen = NetworksPage(browser.new_page(), f"{server}/plain/")
    assert seen.page.evaluate("edgeq.networks.map(network => network.simd)") == ["plain"] * len(NAMES)
    assert seen.problem == ""
    seen.page.close()


def test_what_is_no_image_is_one_line(seen: NetworksPage) -> None:
    seen.choose(b"some text", "notes.txt", "text/plain")
    expected = "notes.txt: expected an image that this browser can read, found another file"
    expect(seen.page.locator("#problem")).to_have_text(expected)
    seen.choose(png(image_of(0, 40, 30)))
    assert len(seen.labels()) == 5
    assert seen.problem == ""


BITS = """async ([text, number]) => {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0)), network = edgeq.networks[number];
  const image = await createImageBitmap(new Blob([bytes]), { colorSpaceConversion: "none" });
  const [made] = Object.values(await network.run(network.prepare(image)));
  return Array.from(new Uint32Array(made.buffer));
}"""


@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_logits_of_images_are_those_of_onnx_runtime(seen: NetworksPage, number: int, tmp_path: Path) -> None:
    network = packed("residual", NAMES[number])
    path = tmp_path / "net.onnx"
    path.write_bytes(to_onnx(network).SerializeToString())
    theirs = runner(translate(network, False), path, exact=overflows(network))  # on CPUs without VNNI, too
    rng = np.random.default_rng(number)
    for seed in range(20):
        image = image_of(seed, int(rng.integers(40, 90)), int(rng.integers(20, 60)))  # none is tall
        made = seen.page.evaluate(BITS, [base64.b64encode(png(image)).decode(), number])
        (expected,) = theirs(Images((PREPROCESS(image)[None],)))
        assert made == expected.reshape(-1).view(np.uint32).tolist(), f"image {seed}"


def test_the_camera(browser: Browser, server: str) -> None:
    seen = NetworksPage(browser.new_page(), f"{server}/page/")
    button = seen.page.locator("#camera")
    button.click()
    assert len(seen.labels()) == 5
    assert button.inner_text() == "Stop the camera"
    button.click()
    assert button.inner_text() == "Use the camera"
    assert seen.page.evaluate("document.querySelector('video').srcObject") is None
    assert (seen.complaints, seen.problem) == ([], "")
    seen.page.close()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("NotAllowedError", "The camera was refused: allow it in the settings of this page, or choose a file"),
        ("NotFoundError", "No camera was found: choose a file"),
        ("AbortError", "The camera cannot be used: why"),
    ],
)
def test_no_camera_is_one_line(browser: Browser, server: str, error: str, text: str) -> None:
    page = browser.new_page()
    refusing = f"navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException('why', '{error}'); }};"
    page.add_init_script(refusing)
    seen = NetworksPage(page, f"{server}/page/")
    page.locator("#camera").click()
    expect(page.locator("#problem")).to_have_text(text)
    assert page.locator("#camera").inner_text() == "Use the camera"
    assert seen.complaints == []
    page.close()


def broken(browser: Browser, address: str, script: str = "") -> str:
    """The line that a page says that cannot work."""
    page = browser.new_page()
    page.add_init_script(script)
    seen = NetworksPage(page, address)
    assert page.get_attribute("html", "data-state") == "failed"
    assert page.locator("article").count() == 0
    line = seen.problem
    page.close()
    return line


def test_a_browser_without_vectors_is_one_line(browser: Browser, server: str) -> None:
    line = broken(browser, f"{server}/page/", "WebAssembly.validate = () => false;")
    assert line.startswith("This browser has no WebAssembly SIMD; expected Chrome 91")


def test_a_folder_from_the_disk_says_how_to_serve_it(browser: Browser, made: Path) -> None:
    page = browser.new_page()
    page.goto((made / "page/index.html").as_uri())
    expect(page.locator("#problem")).to_contain_text("Run python -m http.server in this folder")
    page.close()


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("4bit.eqp", lambda old: old[:-64], "4bit.eqp: a damaged program: a part of it is missing; export it again"),
        (
            "4bit.json",
            lambda _: b"{}",
            "4bit.json: expected version 1 of a network of edgeq for the web; export it again",
        ),
        ("4bit.json", lambda _: b"no", "4bit.json: expected JSON, found something else; export it again"),
        ("4bit.answers", None, "4bit.answers: cannot be read: the server answers 404"),
    ],
    ids=["program", "version", "json", "missing"],
)
def test_damaged_files_are_one_line(
    browser: Browser, made: Path, server: str, file: str, content: Any, text: str
) -> None:
    shutil.copytree(made / "page", made / "damaged")
    try:
        path = made / "damaged" / file
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content(path.read_bytes()))
        assert broken(browser, f"{server}/damaged/") == text
    finally:
        shutil.rmtree(made / "damaged")


def test_wrong_answers_are_seen_and_relaxed_instructions_then_left(browser: Browser, made: Path, server: str) -> None:
    shutil.copytree(made / "page", made / "wrong")
    answers = bytearray((made / "wrong/4bit.answers").read_bytes())
    answers[4] ^= 1  # the last bit of one number
    (made / "wrong/4bit.answers").write_bytes(answers)
    seen = NetworksPage(browser.new_page(), f"{server}/wrong/")
    assert seen.page.evaluate("edgeq.networks.map(network => network.simd)")[1] == "plain"
    line = seen.page.locator(".check.failed").inner_text()
    assert line == "✗ Self-test: only 11 of 12 outputs equal ONNX Runtime's; do not trust this page in this browser"
    seen.page.close()


def test_the_module_alone(browser: Browser, made: Path, server: str) -> None:
    (made / "page/own.html").write_text("<!doctype html><title>own</title><link rel=icon href=data:,>")
    page = browser.new_page()
    page.goto(f"{server}/page/own.html")
    script = """async () => {
      const { load } = await import("./edgeq.js"), network = await load("4bit", { simd: "plain" });
      const made = await network.run({ image: new Float32Array(3 * 16 * 16) });
      let wrong = "";
      try { await network.run(new Float32Array(3)); } catch (error) { wrong = error.message; }
      return { values: made.logits.length, simd: network.simd, labels: network.labels, wrong };
    }"""
    expected = "4bit: expected 768 numbers of float32 of image, found 3 numbers"
    assert page.evaluate(script) == {"values": 6, "simd": "plain", "labels": [*LABELS], "wrong": expected}
    page.close()


def test_json_of_a_page_is_of_this_version(made: Path) -> None:
    about = json.loads((made / "page/page.json").read_text())
    assert (about["format"], about["version"], about["networks"]) == ("edgeq-web", 1, [*NAMES])
