"""The static site: written completely or not at all, without touching other files or using other hosts."""

import gzip
import hashlib
import io
import json
import os
import re
import signal
import subprocess
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
from tests.tiny import CONDITIONAL, TINY

EXPORT_NETWORK = site.export_network  # which the fixture `page` replaces
CONTENT = {name: f"{name}\n".encode() * 100 for name in site.RUNTIME_FILES}


def stored(content: dict[str, bytes]) -> dict[str, bytes]:
    """What a site contains of the runtime: its WebAssembly compressed."""
    return {
        f"{name}.gz" if name.endswith(".wasm") else name: gzip.compress(data, mtime=0)
        if name.endswith(".wasm")
        else data
        for name, data in content.items()
    }


def write_tarball(path: Path) -> str:
    """Write a stand-in for the runtime's tarball, and return its SHA-256."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {**CONTENT, "not.needed.js": b"no"}.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a class-conditional run, an unconditional run, and the tarball."""
    folder = tmp_path_factory.mktemp("site")
    train(CONDITIONAL, folder / "conditional")
    train(TINY, folder / "unconditional")
    write_tarball(folder / "runtime.tgz")
    return folder


@pytest.fixture(autouse=True)
def page(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page of four files. Also accepts the stand-in as the runtime, and skips the exports, which take seconds."""
    page = tmp_path / "page"
    page.mkdir()
    (page / "index.html").write_text('<head>\n    <meta name="engine" content="server" />\n</head><p>é')
    (page / "points.html").write_text('<head>\n    <meta charset="utf-8" />\n</head><p>ü')
    (page / "app.js").write_text("// é")
    (page / "coi.js").write_text("// coi")
    monkeypatch.setattr(site, "PAGE", page)
    monkeypatch.setattr(site, "RUNTIME_SHA256", hashlib.sha256((folder / "runtime.tgz").read_bytes()).hexdigest())
    monkeypatch.setattr(site, "export_network", lambda model, path: write_atomic(path, b""))
    return page


def build(folder: Path, out: Path, *models: str) -> None:
    build_site(out, [str(folder / model) for model in models or ("unconditional",)], folder / "runtime.tgz")


def read_files(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_site_contains_every_file(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "site"
    build(folder, out, "conditional", "unconditional")
    found = read_files(out)
    assert found.keys() == {
        "index.html",
        "points.html",
        "coi.js",
        "page/app.js",
        "models.json",
        "models/conditional.onnx",
        "models/conditional.labels",
        "models/unconditional.onnx",
        *(f"runtime/{name}" for name in stored(CONTENT)),
        "runtime/LICENSE",
        "runtime/ThirdPartyNotices.txt",
        "LICENSE",
        "README.md",
        "_headers",
        "site.json",
    }
    assert found["page/app.js"].decode() == "// é"
    assert {name: found[f"runtime/{name}"] for name in stored(CONTENT)} == stored(CONTENT)
    description = json.loads(found["site.json"])
    sizes = {name: len(content) for name, content in found.items() if name != "site.json"}
    expected = {"version": sd.__version__, "runtime": site.RUNTIME, "files": sorted(found), "sizes": sizes}
    assert description == expected
    assert [path.name for path in out.parent.iterdir()] == ["site"]  # temporary files are gone
    assert b"Microsoft" in found["runtime/LICENSE"]
    for part in (b"protobuf", b"Eigen", b"abseil", b"emsdk", b"dawn"):  # of the WebAssembly
        assert part in found["runtime/ThirdPartyNotices.txt"]
    assert "- conditional: " in found["README.md"].decode()


def test_the_page_names_its_engine_and_its_security_policy(folder: Path, tmp_path: Path) -> None:
    build(folder, tmp_path / "site")
    html = (tmp_path / "site" / "index.html").read_text()
    assert html.count('<meta name="engine" content="browser" />') == html.count('<script src="coi.js"></script>') == 1
    assert "server" not in html
    assert html.endswith("</head><p>é")
    headers = dict(
        line.strip().split(": ", 1) for line in (tmp_path / "site" / "_headers").read_text().splitlines()[1:]
    )
    assert headers == site.HEADERS
    (policy,) = re.findall('http-equiv="Content-Security-Policy" content="(.*)"', html)
    points = (tmp_path / "site" / "points.html").read_text()
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}" />' in points
    assert points.endswith("</head><p>ü")
    assert f"{policy}; frame-ancestors 'none'" == headers["Content-Security-Policy"]  # works only as a header
    assert "default-src 'none'; script-src 'self' 'wasm-unsafe-eval';" in policy
    assert "http" not in policy


@pytest.mark.slow
def test_models_in_the_site_equal_those_in_python(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    exported: list[Path] = []

    def export_unconditional(model: Model, path: Path) -> None:  # only one model, because an export takes seconds
        exported.append(path)
        if model.labels is None:
            to_onnx(model, path)

    monkeypatch.setattr(site, "export_network", export_unconditional)
    build(folder, tmp_path / "site", "conditional", "unconditional")
    out = tmp_path / "site"
    conditional, unconditional = (sd.load(folder / name, device="cpu") for name in ("conditional", "unconditional"))
    assert json.loads((out / "models.json").read_text()) == [
        model_info("conditional", conditional),
        model_info("unconditional", unconditional),
    ]
    assert conditional.labels is not None
    table = np.fromfile(out / "models" / "conditional.labels", "<f4").reshape(conditional.labels.shape)
    assert np.array_equal(table, conditional.labels.numpy())
    assert [path.name for path in exported] == ["conditional.onnx", "unconditional.onnx"]
    x, t = unconditional.noise(2), torch.tensor([3, 9])
    with torch.inference_mode():
        expected = unconditional.network(x, t)
    prediction = OnnxNetwork(out / "models" / "unconditional.onnx", 1)(x, t)
    torch.testing.assert_close(prediction, expected, rtol=0, atol=1e-5)


def test_an_earlier_site_is_replaced(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    out.mkdir()
    build(folder, out, "conditional")  # into an empty folder
    build(folder, out, "unconditional")
    assert [path.name for path in (out / "models").iterdir()] == ["unconditional.onnx"]


def test_other_files_are_not_touched(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    build(folder, out)
    (out / "page" / "mine.txt").write_text("precious")
    before = read_files(out)
    with pytest.raises(
        UserError, match=r"contains files that do not belong to the site: page/mine\.txt; move them away"
    ):
        build(folder, out)
    assert read_files(out) == before
    for content in ("", "[]", "{}", '{"files": 5}'):
        (out / "site.json").write_text(content)
        with pytest.raises(UserError, match="is not empty and not an earlier site; choose a new or empty folder"):
            build(folder, out)
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(UserError, match="file is a file; choose a new or empty folder"):
        build(folder, file)
    assert file.read_text() == "precious"


def test_an_earlier_site_survives_every_error(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "site"
    build(folder, out)
    before = read_files(out)

    def raise_disk_full(folder: Path, name: str) -> None:
        raise OSError(28, "No space left on device")

    for method in ("write_bytes", "write_text"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, raise_disk_full)
            with pytest.raises(UserError, match="no room on the disk"):
                build(folder, out)
        assert read_files(out) == before
    rename = Path.rename

    def fail_for_new_site(path: Path, to: Path) -> None:
        if path.name == "site" and path != out:
            raise OSError(5, "Input/output error")
        rename(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail_for_new_site)
        with pytest.raises(UserError, match="Input/output error"):
            build(folder, out)
    assert read_files(out) == before
    with pytest.raises(UserError, match="there is no run or checkpoint"):
        build(folder, tmp_path / "other", "unconditional", "nowhere")
    assert not (tmp_path / "other").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page", "site"]


def test_model_names_must_be_unique_and_valid_in_urls(folder: Path, tmp_path: Path) -> None:
    run = folder / "conditional"
    checkpoint = run / "checkpoints" / "latest.safetensors"
    assert site._name_models([str(checkpoint), str(run)]) == {"latest": str(checkpoint), "conditional": str(run)}
    assert site._name_models(["sprites"]) == {"sprites": "sprites"}
    with_space = tmp_path / "my run"
    with_space.mkdir()
    with pytest.raises(UserError, match="is called 'my run'; rename it, using only ASCII letters, digits, - and _"):
        site._name_models([str(with_space)])
    other = tmp_path / "conditional"
    other.mkdir()
    with pytest.raises(UserError, match="conditional would both be called conditional on the page; rename one"):
        site._name_models([str(folder / "conditional"), str(other)])


def test_the_checksum_of_the_runtime_is_verified(folder: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.tgz"
    wrong.write_bytes(b"?")
    with pytest.raises(UserError, match=r"wrong\.tgz is not onnxruntime-web@.*: its SHA-256 must be .*, not "):
        build_site(tmp_path / "site", [str(folder / "unconditional")], wrong)
    with pytest.raises(UserError, match=r"there is no file .*nowhere\.tgz; `runtime` must be the tarball of onnx"):
        build_site(tmp_path / "site", [str(folder / "unconditional")], tmp_path / "nowhere.tgz")
    assert not (tmp_path / "site").exists()


NPM = """#!{python}
import shutil, sys
assert sys.argv[1:] == ["pack", "--prefer-offline", {runtime!r}], sys.argv
{code}
"""


def install_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Make `npm` the only program on PATH, and let it run this Python code."""
    folder.mkdir(exist_ok=True)
    npm = folder / "npm"
    npm.write_text(NPM.format(python=sys.executable, runtime=site.RUNTIME, code=code))
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot run a script without an extension")
def test_npm_downloads_the_runtime(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bin = tmp_path / "bin"
    install_npm(bin, monkeypatch, f"shutil.copy({str(folder / 'runtime.tgz')!r}, 'onnxruntime-web.tgz')")
    found = site._runtime_files(None)
    assert {name: found[f"runtime/{name}"] for name in stored(CONTENT)} == stored(CONTENT)
    install_npm(bin, monkeypatch, "open('onnxruntime-web.tgz', 'w').write('?')")
    with pytest.raises(UserError, match="the download from npm is not onnxruntime-web@"):
        site._runtime_files(None)
    for code, reason in (("sys.exit('npm ERR!\\nno network')", "no network"), ("", "npm gave no reason")):
        install_npm(bin, monkeypatch, code)
        with pytest.raises(UserError, match=rf"could not download .* \({reason}\): try again later, .*`runtime=PATH`"):
            site._runtime_files(None)
    (bin / "npm").unlink()
    with pytest.raises(UserError, match=r"npm, which downloads .*, is not installed: install Node\.js, .*`runtime"):
        site._runtime_files(None)


def test_by_default_a_site_has_all_shipped_models(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested: list[Sequence[str]] = []

    def record(models: Sequence[str]) -> dict[str, str]:
        requested.append(models)
        raise UserError("recorded")

    monkeypatch.setattr(site, "_name_models", record)
    for models in ((), ("sprites",)):
        with pytest.raises(UserError, match="recorded"):
            build_site(tmp_path / "site", models, folder / "runtime.tgz")
    assert requested[1] == ("sprites",)
    assert requested[0][0] == "shapes-turbo"  # which the server starts with, too
    assert sorted(requested[0]) == zoo.names()


def test_the_command_prints_every_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "site"
    tyro.cli(cli.run, args=[str(out), str(folder / "unconditional"), "--runtime", str(folder / "runtime.tgz")])
    *files, last = capsys.readouterr().out.splitlines()
    found = read_files(out)
    assert files == [f"{len(found[name]) / 1000:9,.1f} kB  {out / name}" for name in sorted(found)]
    assert f"python3 -m http.server -d {out}" in last


def test_progress_is_reported(folder: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    runs = [str(folder / name) for name in ("conditional", "unconditional")]
    build_site(tmp_path / "site", runs, folder / "runtime.tgz", progress=lambda *call: calls.append(call))
    assert calls == [("runtime", 0, 1), ("runtime", 1, 1), *(("models", done, 2) for done in range(3))]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGHUP", marks=pytest.mark.slow)])
def test_a_signal_leaves_nothing_behind(folder: Path, tmp_path: Path, name: str) -> None:
    code = f"""
import os, signal, sys
from pathlib import Path
from shapedreamer.cli import main
from shapedreamer.live import site

def stop(model, path):
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a model")
    os.kill(os.getpid(), signal.{name})

site.export_network = stop
site.RUNTIME_SHA256 = {site.RUNTIME_SHA256!r}
sys.argv[1:] = ["site", "out", {str(folder / "unconditional")!r}, "--runtime", {str(folder / "runtime.tgz")!r}]
sys.exit(main())
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 128 + getattr(signal, name), result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


@pytest.mark.slow
def test_weights_are_stored_in_half_precision_only_where_that_changes_nothing(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
    model, path = sd.load(folder / "unconditional", device="cpu"), tmp_path / "network.onnx"

    def stored_types() -> set[int]:
        """The types of the weights of convolutions, in the file."""
        return {weight.data_type for weight in onnx.load(path).graph.initializer if len(weight.dims) == 4}

    EXPORT_NETWORK(model, path)
    assert stored_types() == {onnx.TensorProto.FLOAT16}
    assert site._is_accurate(OnnxNetwork(path, 1), model)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(1 + 1 / 7)  # no longer a float16
        model.network.get_parameter("conv_out.weight").mul_(100)
    EXPORT_NETWORK(model, path)
    assert stored_types() == {onnx.TensorProto.FLOAT}


def test_the_page_uses_relative_urls_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "PAGE", Path(site.__file__).parent / "page")
    html = site._page_files()["index.html"].decode()
    for url in re.findall(r'(?:href|src)="([^"]*)"', html):
        assert not url.startswith(("/", "http"))
    for name, content in site._page_files().items():
        assert not re.search(rb"(import|from|fetch\()\s*[\"'](https?:)?/", content), name
