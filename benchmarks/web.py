"""Networks in a browser, in edgeq's page and in onnxruntime-web: time, loading, memory, code and equality.

    edgeq export --scheme 8bit --output WORK/8bit.onnx      (and 4bit, 2bit)
    python benchmarks/web.py --work WORK --data IMAGES --peer NODE_MODULES/onnxruntime-web --store

onnxruntime-web comes from npm, Chromium from the system, Playwright from pip. One thread; all networks take turns in
one page, so what else the machine does meets all of them. The logits of some images are compared, bit by bit, with
those of ONNX Runtime's exact kernels outside of the browser.
"""

from __future__ import annotations

import base64
import functools
import http.server
import json
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import click
import numpy as np
from playwright.sync_api import Page, sync_playwright
from shared import publish

from edgeq.artifacts.files import write_json
from edgeq.artifacts.manifest import read_manifest
from edgeq.data.images import ImageSet
from edgeq.data.preprocess import Preprocess
from edgeq.exporters.onnx.model import translate
from edgeq.exporters.parity import runner
from edgeq.exporters.web.export import WebForm, export_web
from edgeq.ir.batches import Images
from edgeq.ir.network import Network
from edgeq.packed.file import load_packed
from edgeq.system.environment import environment

SCHEMES: Final = ("8bit", "4bit", "2bit")
ENGINES: Final = ("plain", "relaxed")
BROWSER: Final = "/usr/bin/chromium"
FLAGS: Final = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
IMAGES: Final = 20
LOADS: Final = 15
PEER: Final = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
PAGE: Final = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>bench</title>
<script type="module">
import { load } from "./edgeq.js";
import * as ort from "./ort.wasm.min.mjs";
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const bits = (values) => Array.from(new Uint32Array(values.buffer, values.byteOffset, values.length));
const clock = async (run) => {
  const start = performance.now(), made = await run();
  return [performance.now() - start, made];
};
const answered = {};

window.open_ = async (name, engine, times) => {
  const loads = [];
  let network;
  for (let i = 0; i < times; i++) {
    const [milliseconds, made] = await clock(() => load(name, { simd: engine }));
    loads.push(milliseconds);
    network = made;
  }
  answered[`${name} ${engine}`] = async (input) => Object.values(await network.run(input))[0];
  const { memory, simd, about } = network;
  return { loads, memory, simd, check: await network.check(), bytes: about.bytes, input: about.inputs[0] };
};

window.openPeer = async (name, times, type, shape) => {
  const model = new Uint8Array(await (await fetch(`${name}.onnx`)).arrayBuffer());
  const loads = [], options = { executionProviders: ["wasm"] };
  let session;
  for (let i = 0; i < times; i++) {
    await session?.release();
    const [milliseconds, made] = await clock(() => ort.InferenceSession.create(model, options));
    loads.push(milliseconds);
    session = made;
  }
  answered[`${name} onnxruntime-web`] = async (input) => {
    const found = await session.run({ [session.inputNames[0]]: new ort.Tensor(type, input, [1, ...shape]) });
    return found[session.outputNames[0]].data;
  };
  return { loads };
};

window.answer = async (who, text) => bits(await answered[who](typed(text)));
const typed = (text) => new Float32Array(bytes(text).buffer);

window.bench = async (names, text, rounds) => {
  const input = typed(text), times = Object.fromEntries(names.map((name) => [name, []]));
  for (let i = 0; i < 5; i++) for (const name of names) await answered[name](input);
  for (let i = 0; i < rounds; i++)
    for (let k = 0; k < names.length; k++) {
      const name = names[(i + k) % names.length];
      times[name].push((await clock(() => answered[name](input)))[0]);
    }
  return times;
};
document.documentElement.dataset.state = "ready";
</script>"""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder to pages on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}  # noqa: RUF012

        def log_message(self, *_: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def answers(network: Network, path: Path, inputs: Sequence[np.ndarray[Any, Any]]) -> list[list[int]]:
    """The bits of the logits that ONNX Runtime computes, with kernels that overflow on no CPU."""
    exact = runner(translate(network), path, exact=True)
    seen = Images.each(network.graph, (one[None] for one in inputs))
    return [exact(images)[0].reshape(-1).view(np.uint32).tolist() for images in seen]


def images_of(path: Path, data: Path, count: int) -> list[np.ndarray[Any, Any]]:
    """The first images of a folder, as a file takes them."""
    preprocess = Preprocess.from_dict(read_manifest(path)["preprocess"])
    images = ImageSet.folder(data, count, 0)
    return [*np.concatenate([batch.images for batch in images.batches(preprocess, count)])]


def encoded(array: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def measured(page: Page, packed: dict[str, Network], work: Path, data: Path, rounds: int) -> dict[str, Any]:
    """All that is measured in one page."""
    networks = dict[str, Any]()
    inputs = images_of(work / f"{SCHEMES[0]}.onnx", data, IMAGES)
    for scheme in SCHEMES:
        found = {engine: page.evaluate("a => open_(...a)", [scheme, engine, LOADS]) for engine in ENGINES}
        auto = page.evaluate("a => open_(...a)", [scheme, "auto", LOADS])
        end = auto["input"]
        found["onnxruntime-web"] = page.evaluate("a => openPeer(...a)", [scheme, 5, end["type"], end["shape"]])
        expected = answers(packed[scheme], work / f"{scheme}.onnx", inputs)
        for who, row in found.items():
            made = [page.evaluate("a => answer(...a)", [f"{scheme} {who}", encoded(one)]) for one in inputs]
            row["equal"] = float(np.mean([np.equal(a, b).mean() for a, b in zip(made, expected, strict=True)]))
        networks[scheme] = {**found, "chosen": auto["simd"], "loads_with_check": auto["loads"]}
    names = [f"{scheme} {who}" for scheme in SCHEMES for who in (*ENGINES, "onnxruntime-web")]
    times = page.evaluate("a => bench(...a)", [names, encoded(inputs[0]), rounds])
    for name, values in times.items():
        scheme, _, who = name.partition(" ")
        networks[scheme][who]["times"] = [round(value, 3) for value in values]
    return networks


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder with the exported files.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of images.")
@click.option("--peer", type=click.Path(path_type=Path), required=True, help="The folder of onnxruntime-web.")
@click.option("--rounds", default=60, show_default=True, help="Timed runs of each network in each engine.")
@click.option("--store", is_flag=True, help="Store what was found.")
def main(work: Path, data: Path, peer: Path, rounds: int, store: bool) -> None:
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = Path(temporary) / "page"
        packed = {scheme: load_packed(work / f"{scheme}.safetensors") for scheme in SCHEMES}
        preprocess = Preprocess.from_dict(read_manifest(work / f"{SCHEMES[0]}.onnx")["preprocess"])
        about = export_web(packed, folder, WebForm("bench", preprocess))
        for scheme in SCHEMES:
            shutil.copy(work / f"{scheme}.onnx", folder)
        for name in PEER:
            shutil.copy(peer / "dist" / name, folder)
        (folder / "bench.html").write_text(PAGE)
        browser = playwright.chromium.launch(executable_path=BROWSER, args=[*FLAGS])
        with served(folder) as address:
            page = browser.new_page()
            page.on("pageerror", lambda error: click.echo(f"page: {error}", err=True))
            page.goto(f"{address}/bench.html")
            page.wait_for_selector("html[data-state]", state="attached")
            networks = measured(page, packed, work, data, rounds)
        body = {
            "environment": environment(),
            "chromium": browser.version,
            "onnxruntime_web": json.loads((peer / "package.json").read_text())["version"],
            "rounds": rounds, "images": IMAGES, "code": about["code"],
            "peer_code": sum((peer / "dist" / name).stat().st_size for name in PEER),
            "networks": networks,
        }  # fmt: skip
        browser.close()
    for scheme, found in networks.items():
        theirs = median(found["onnxruntime-web"]["times"])
        for who in (*ENGINES, "onnxruntime-web"):
            row = found[who]
            time, load = median(row["times"]), median(row["loads"])
            click.echo(
                f"{scheme} {who}: {time:.2f} ms ({time / theirs:.3f}x), load {load:.1f} ms, "
                f"{row['equal']:.2%} equal, {row.get('memory', 0) / 1e6:.2f} MB"
            )
        click.echo(f"{scheme}: chosen {found['chosen']}, load with check {median(found['loads_with_check']):.1f} ms")
    if store:
        report = Path(tempfile.mkdtemp()) / "web.json"
        write_json(report, "web-benchmark", 1, body)
        publish(report, Path(__file__).parent / "results" / "web.json", [report.parent, work.absolute()])


if __name__ == "__main__":
    main()
