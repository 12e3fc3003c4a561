"""The static site: all of it or nothing, nothing of anybody else's touched, and nothing that asks another host."""

import hashlib
import io
import json
import os
import re
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro

import shapedreamer as sd
from shapedreamer.cli import site as cli
from shapedreamer.common.errors import UserError
from shapedreamer.common.files import write_atomic
from shapedreamer.export.onnx import OnnxNetwork, to_onnx
from shapedreamer.live import site
from shapedreamer.live.settings import model_info
from shapedreamer.live.site import build_site
from shapedreamer.models import zoo
from shapedreamer.models.model import Model
from shapedreamer.training.loop import train
from tests.tiny import TINY, TOLD

CONTENT = {name: f"{name}\n".encode() * 100 for name in site.RUNTIME_FILES}


def write_tarball(path: Path) -> str:
    """A stand-in for the runtime's tarball; its sha256."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {**CONTENT, "not.wanted.js": b"no"}.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run told labels, one told none, and the tarball."""
    folder = tmp_path_factory.mktemp("site")
    train(TOLD, folder / "told")
    train(TINY, folder / "untold")
    write_tarball(folder / "runtime.tgz")
    return folder


@pytest.fixture(autouse=True)
def page(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page of few files; the stand-in is the right runtime; and exports, which take seconds, are empty."""
    page = tmp_path / "page"
    page.mkdir()
    (page / "index.html").write_text('<head>\n    <meta name="engine" content="server" />\n</head><p>é')
    (page / "app.js").write_text("// é")
    (page / "coi.js").write_text("// coi")
    monkeypatch.setattr(site, "PAGE", page)
    monkeypatch.setattr(site, "RUNTIME_SHA256", hashlib.sha256((folder / "runtime.tgz").read_bytes()).hexdigest())
    monkeypatch.setattr(site, "to_onnx", lambda model, path: write_atomic(path, b""))
    return page


def build(folder: Path, out: Path, *models: str) -> None:
    build_site(out, [str(folder / model) for model in models or ("untold",)], folder / "runtime.tgz")


def files(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_site_is_whole(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "site"
    build(folder, out, "told", "untold")
    found = files(out)
    assert found.keys() == {
        "index.html",
        "coi.js",
        "page/app.js",
        "models.json",
        "models/told.onnx",
        "models/told.labels",
        "models/untold.onnx",
        *(f"runtime/{name}" for name in CONTENT),
        "runtime/LICENSE",
        "LICENSE",
        "README.md",
        "_headers",
        "site.json",
    }
    assert found["page/app.js"].decode() == "// é"
    assert {name: found[f"runtime/{name}"] for name in CONTENT} == CONTENT
    about = json.loads(found["site.json"])
    assert about == {"version": sd.__version__, "runtime": site.RUNTIME, "files": sorted(found)}
    assert [path.name for path in out.parent.iterdir()] == ["site"]  # nothing is left of how it was made
    assert b"Microsoft" in found["runtime/LICENSE"]
    assert "- told: " in found["README.md"].decode()


def test_the_page_is_told_its_engine_and_its_policy(folder: Path, tmp_path: Path) -> None:
    build(folder, tmp_path / "site")
    html = (tmp_path / "site" / "index.html").read_text()
    assert html.count('<meta name="engine" content="browser" />') == html.count('<script src="coi.js"></script>') == 1
    assert "server" not in html
    assert html.endswith("</head><p>é")
    sent = dict(line.strip().split(": ", 1) for line in (tmp_path / "site" / "_headers").read_text().splitlines()[1:])
    assert sent == site.HEADERS
    (policy,) = re.findall('http-equiv="Content-Security-Policy" content="(.*)"', html)
    assert f"{policy}; frame-ancestors 'none'" == sent["Content-Security-Policy"]  # which cannot stand in a page
    assert "default-src 'none'; script-src 'self' 'wasm-unsafe-eval';" in policy
    assert "http" not in policy


@pytest.mark.slow
def test_models_are_what_python_has(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    exported: list[Path] = []

    def only_untold(model: Model, path: Path) -> None:  # one is enough, as they take seconds
        exported.append(path)
        if model.labels is None:
            to_onnx(model, path)

    monkeypatch.setattr(site, "to_onnx", only_untold)
    build(folder, tmp_path / "site", "told", "untold")
    made = tmp_path / "site"
    told, untold = (sd.load(folder / name, device="cpu") for name in ("told", "untold"))
    assert json.loads((made / "models.json").read_text()) == [model_info("told", told), model_info("untold", untold)]
    assert told.labels is not None
    table = np.fromfile(made / "models" / "told.labels", "<f4").reshape(told.labels.shape)
    assert np.array_equal(table, told.labels.numpy())
    assert [path.name for path in exported] == ["told.onnx", "untold.onnx"]
    x, t = untold.noise(2), torch.tensor([3, 9])
    with torch.inference_mode():
        expected = untold.network(x, t)
    torch.testing.assert_close(OnnxNetwork(made / "models" / "untold.onnx", 1)(x, t), expected, rtol=0, atol=1e-5)


def test_a_site_of_ours_is_replaced(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    out.mkdir()
    build(folder, out, "told")  # into an empty folder
    build(folder, out, "untold")
    assert [path.name for path in (out / "models").iterdir()] == ["untold.onnx"]


def test_what_is_not_ours_is_left_alone(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    build(folder, out)
    (out / "page" / "mine.txt").write_text("precious")
    before = files(out)
    with pytest.raises(UserError, match=r"has files that are none of the site's: page/mine\.txt; move them away"):
        build(folder, out)
    assert files(out) == before
    for content in ("", "[]", "{}", '{"files": 5}'):
        (out / "site.json").write_text(content)
        with pytest.raises(UserError, match="is not empty, and no site of shapedreamer; name a new or empty folder"):
            build(folder, out)
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(UserError, match="file is a file; name a new or empty folder"):
        build(folder, file)
    assert file.read_text() == "precious"


def test_all_or_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "site"
    build(folder, out)
    before = files(out)

    def full(folder: Path, name: str) -> None:
        raise OSError(28, "No space left on device")

    for way in ("write_bytes", "write_text"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, way, full)
            with pytest.raises(UserError, match="no room on the disk"):
                build(folder, out)
        assert files(out) == before
    rename = Path.rename

    def fails_for_the_new(path: Path, to: Path) -> None:
        if path.name == "site" and path != out:
            raise OSError(5, "Input/output error")
        rename(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fails_for_the_new)
        with pytest.raises(UserError, match="Input/output error"):
            build(folder, out)
    assert files(out) == before
    with pytest.raises(UserError, match="there is no run or checkpoint"):
        build(folder, tmp_path / "other", "untold", "nowhere")
    assert not (tmp_path / "other").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page", "site"]


def test_models_need_names_that_fit_into_addresses_and_differ(folder: Path, tmp_path: Path) -> None:
    best = folder / "told" / "checkpoints" / "latest.safetensors"
    assert site._named([str(best), str(folder / "told")]) == {"latest": str(best), "told": str(folder / "told")}
    assert site._named(["sprites"]) == {"sprites": "sprites"}
    strange = tmp_path / "ein Lauf"
    strange.mkdir()
    with pytest.raises(UserError, match="would be called 'ein Lauf': rename it to letters, digits"):
        site._named([str(strange)])
    other = tmp_path / "told"
    other.mkdir()
    with pytest.raises(UserError, match="told would both be called told; rename one"):
        site._named([str(folder / "told"), str(other)])


def test_the_runtime_is_the_right_one(folder: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.tgz"
    wrong.write_bytes(b"?")
    with pytest.raises(UserError, match=r"wrong\.tgz is not onnxruntime-web@.*: its sha256 is .* and must be"):
        build_site(tmp_path / "site", [str(folder / "untold")], wrong)
    with pytest.raises(UserError, match=r"there is no file .*nowhere\.tgz; it must be the tarball of onnxruntime-web@"):
        build_site(tmp_path / "site", [str(folder / "untold")], tmp_path / "nowhere.tgz")
    assert not (tmp_path / "site").exists()


NPM = """#!{python}
import shutil, sys
assert sys.argv[1:] == ["pack", "--prefer-offline", {runtime!r}], sys.argv
{does}
"""


def install_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    """A program called npm, the only one on the path, that does as it is told."""
    folder.mkdir(exist_ok=True)
    npm = folder / "npm"
    npm.write_text(NPM.format(python=sys.executable, runtime=site.RUNTIME, does=does))
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.skipif(os.name == "nt", reason="a script is no program on Windows")
def test_npm_fetches_the_runtime(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bin = tmp_path / "bin"
    install_npm(bin, monkeypatch, f"shutil.copy({str(folder / 'runtime.tgz')!r}, 'onnxruntime-web.tgz')")
    found = site._runtime_files(None)
    assert {name: found[f"runtime/{name}"] for name in CONTENT} == CONTENT
    install_npm(bin, monkeypatch, "open('onnxruntime-web.tgz', 'w').write('?')")
    with pytest.raises(UserError, match="what npm fetched is not onnxruntime-web@"):
        site._runtime_files(None)
    for does, says in (("sys.exit('npm ERR!\\nno network')", "no network"), ("", "no reason given")):
        install_npm(bin, monkeypatch, does)
        with pytest.raises(UserError, match=rf"could not fetch .* \({says}\): try again later, .*--runtime PATH"):
            site._runtime_files(None)
    (bin / "npm").unlink()
    with pytest.raises(UserError, match=r"npm, which fetches .*, is not installed: install Node\.js, .*--runtime PATH"):
        site._runtime_files(None)


def test_all_models_in_the_box_by_default(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[Sequence[str]] = []

    def stop(models: Sequence[str]) -> dict[str, str]:
        wanted.append(models)
        raise UserError("that is enough")

    monkeypatch.setattr(site, "_named", stop)
    for models in ((), ("sprites",)):
        with pytest.raises(UserError, match="enough"):
            build_site(tmp_path / "site", models, folder / "runtime.tgz")
    assert wanted == [zoo.names(), ("sprites",)]


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "site"
    tyro.cli(cli.run, args=[str(out), str(folder / "untold"), "--runtime", str(folder / "runtime.tgz")])
    assert (out / "models" / "untold.onnx").is_file()
    assert f"python3 -m http.server -d {out}" in capsys.readouterr().out


def test_the_real_page_can_stand_anywhere_and_names_no_other_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "PAGE", Path(site.__file__).parent / "page")
    html = site._page_files()["index.html"].decode()
    for address in re.findall(r'(?:href|src)="([^"]*)"', html):
        assert not address.startswith(("/", "http"))
    for name, content in site._page_files().items():
        assert not re.search(rb"(import|from|fetch\()\s*[\"'](https?:)?/", content), name
