"""What a page says of itself, and pages that are damaged or hostile."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import pytest
from native_engine import packed

from edgeq.errors import ArtifactError
from edgeq.exporters.web.contents import read_page
from edgeq.exporters.web.export import WebForm, export_web

PAGE = {"format": "edgeq-web", "version": 1, "title": "t", "networks": ["4bit"], "code": {}}


def element(name: str, content: bytes) -> str:
    stored = base64.b64encode(content).decode()
    return f'<script type="application/gzip" id="{name}">{stored}</script>'


def test_a_file_and_a_folder_say_what_export_returned(tmp_path: Path) -> None:
    networks = {name: packed("residual", name) for name in ("8bit", "4bit")}
    for path in (tmp_path / "page", tmp_path / "page.html"):
        made = export_web(networks, path, WebForm("residual"))
        found = read_page(path)
        assert [*found["about"]] == ["8bit", "4bit"]
        for key in ("title", "networks", "code"):
            assert found[key] == made[key]
        for name, about in made["about"].items():
            assert {key: found["about"][name][key] for key in about} == json.loads(json.dumps(about))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "expected a page of edgeq with page.json in it, found another file"),
        (element("page.json", b"no gzip"), "a damaged page"),
        (element("page.json", gzip.compress(b"[]")), "expected an edgeq web, found list"),
        (element("page.json", gzip.compress(b" " * (2 << 20))), "expected at most 1048576 bytes"),
        (element("page.json", gzip.compress(json.dumps({**PAGE, "title": 1}).encode())), "a damaged web"),
        (element("page.json", gzip.compress(json.dumps(PAGE).encode())), "expected a page of edgeq with 4bit.json"),
    ],
    ids=["empty", "no gzip", "no object", "bomb", "title", "network"],
)
def test_a_damaged_file_is_one_line(content: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(content)
    with pytest.raises(ArtifactError) as caught:
        read_page(path)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_names_no_files_outside(tmp_path: Path) -> None:
    (tmp_path / "page.json").write_text(json.dumps({**PAGE, "networks": ["../other"]}))
    with pytest.raises(ArtifactError, match="expected the name of a file in the folder"):
        read_page(tmp_path)
    (tmp_path / "page.json").write_text(json.dumps(PAGE))
    with pytest.raises(ArtifactError, match=r"expected a file 4bit\.json that can be read"):
        read_page(tmp_path)
