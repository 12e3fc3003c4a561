"""The live page as a folder that any static host can serve; the models run in the viewer's browser.

    index.html, page/    the page
    points.html          its view Points, which needs no model
    _headers, coi.js     the HTTP headers that the host should send, and a script that replaces them if it does not
    models.json          a list of the models, from settings.model_info
    models/              NAME.onnx; NAME.labels with labels of real images, (N, L) float32, from which "any" draws
    runtime/             onnxruntime-web; its WebAssembly is compressed, because not every host does that
    site.json            marks the folder as a site: version and list of files

The site sends no request to any other host.
"""

import copy
import gzip
import importlib.util
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from .. import __version__
from ..common.errors import UserError, require
from ..common.files import naming_disk_errors
from ..common.values import as_path
from ..export.onnx import OnnxNetwork, to_onnx
from ..models import zoo
from ..models.model import Model, find_checkpoint, load
from .catalog import shipped
from .settings import model_info

PAGE = Path(__file__).parent / "page"
RUNTIME = "onnxruntime-web@1.30.0"
RUNTIME_SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"  # of the tarball
RUNTIME_FILES = (
    *("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    # for GPUs; browsers without a GPU do not request these
    *("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
)
NOTICES = "ThirdPartyNotices.txt"  # of what ONNX Runtime contains; npm's package lacks it, Python's has it
# Allowed difference of a network's outputs with weights in half precision: in images in [−1, 1], a quarter of the step
# between two grey levels. The weights of shipped models are numbers of half precision, so there it is zero.
HALF_TOLERANCE = 2e-3

POLICY = {
    "default-src": "'none'",
    "script-src": "'self' 'wasm-unsafe-eval'",
    "style-src": "'self'",
    "img-src": "'self' data: blob:",
    "connect-src": "'self'",
    "worker-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{k} {v}" for k, v in {**POLICY, "frame-ancestors": "'none'"}.items()),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

MIT = """\
MIT License

Copyright (c) {holder}

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""
README = """\
# The live page of ShapeDreamer

Written by `shapedreamer site`, version {version}. Copy this folder to any static host, under any path. To try it on
your own machine, run `python3 -m http.server` in this folder and open the address that it prints. (Browsers do not load
models from file:// addresses.)

The models use several threads only if the host sends the headers in the file `_headers`. Some hosts read that file; on
others, set the headers by hand. If neither is possible, `coi.js` adds them in the browser, provided that the page comes
by https or from localhost.

Models:

{models}
Licences: LICENSE for the page, runtime/LICENSE for ONNX Runtime, which runs the models, and
runtime/ThirdPartyNotices.txt for what it contains.
"""


def build_site(
    out: str | Path,
    models: Sequence[str] = (),
    runtime: str | Path | None = None,
    *,
    progress: Callable[[str, int, int], object] = lambda task, done, total: None,
) -> dict[str, int]:
    """Write the site to the folder `out`, completely or not at all. An earlier site in the folder is replaced.

    models:   names of shipped models, run folders or checkpoints; by default, all shipped models. The page starts with
              the first one
    runtime:  the tarball of RUNTIME; by default, npm downloads it
    progress: called with the current task, the number of steps done and their total

    Returns the bytes of each file. UserError if the folder contains other files, a model or the runtime is missing or
    damaged, or the disk is full.
    """
    out = as_path("out", out).resolve()
    runtime = None if runtime is None else as_path("runtime", runtime)
    _check_replaceable(out)
    runs = _name_models(models or shipped())
    loaded = {name: _load_model(run) for name, run in runs.items()}
    progress("runtime", 0, 1)
    files = _page_files() | _runtime_files(runtime)
    progress("runtime", 1, 1)
    with naming_disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)  # on the same disk: a rename can move it
    with temporary:
        new = Path(temporary.name) / "site"
        infos, descriptions = [], []
        for number, (name, run) in enumerate(runs.items()):
            progress("models", number, len(runs))
            model = loaded[name]
            infos.append(model_info(name, model))
            trained_on = zoo.card(name).data if find_checkpoint(run) == zoo.path(name) else model.spec.name
            descriptions.append(f"- {name}: {infos[-1]['about']}; trained on {trained_on}\n")
            export_network(model, new / "models" / f"{name}.onnx")
            if model.labels is not None:
                files[f"models/{name}.labels"] = model.labels.numpy().astype("<f4").tobytes()
        progress("models", len(runs), len(runs))
        files["models.json"] = json.dumps(infos, ensure_ascii=False, allow_nan=False).encode()
        files["README.md"] = README.format(version=__version__, models="".join(descriptions)).encode()
        with naming_disk_errors(out):
            sizes = _write(files, new)
            _replace(out, new)
    return sizes


def export_network(model: Model, path: Path) -> None:
    """Write the network to an .onnx file, with weights in half precision unless this changes its outputs."""
    to_onnx(model, path, precision="half")
    if not _is_accurate(OnnxNetwork(path, 1), model):
        to_onnx(model, path)


def _is_accurate(network: OnnxNetwork, model: Model) -> bool:
    """Whether an exported network gives the outputs of the model's own network, at all levels of noise."""
    reference = copy.deepcopy(model.network).to("cpu", torch.float32)
    t = torch.linspace(1, model.schedule.T, 16).round().long()
    x = model.noise(len(t)).cpu()
    with torch.inference_mode():
        return bool((network(x, t) - reference(x, t)).abs().max() <= HALF_TOLERANCE)


def _check_replaceable(out: Path) -> None:
    """UserError unless `out` is missing, empty, or contains an earlier site and nothing else."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; choose a new or empty folder")
    existing = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}
    if not existing:
        return
    try:
        site_files = set(json.loads((out / "site.json").read_bytes())["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{out} is not empty and not an earlier site; choose a new or empty folder") from None
    if others := sorted(existing - site_files):
        raise UserError(f"{out} contains files that do not belong to the site: {', '.join(others)}; move them away")


def _name_models(models: Sequence[str]) -> dict[str, str]:
    """Models by their names on the page: a shipped model's own name, or the name of a run folder or checkpoint file."""
    models_by_name: dict[str, str] = {}
    for model in models:
        path = Path(model).resolve()
        name = path.stem if path.is_file() else path.name
        if not re.fullmatch(r"[\w-]+", name, re.ASCII):
            raise UserError(f"{model} is called {name!r}; rename it, using only ASCII letters, digits, - and _")
        if name in models_by_name:
            raise UserError(f"{models_by_name[name]} and {model} would both be called {name} on the page; rename one")
        models_by_name[name] = model
    return models_by_name


def _load_model(run: str) -> Model:
    model = load(run, device="cpu")
    serve = f"serve it with `shapedreamer live {run}`"
    model.check_gaussian("a static site, where the browser runs the samplers,", serve)
    return model


def _page_files() -> dict[str, bytes]:
    """The page, set to use the engine in the browser, with the files that static hosting needs."""
    files = {
        f"page/{path.relative_to(PAGE).as_posix()}": path.read_bytes() for path in PAGE.rglob("*") if path.is_file()
    }
    html, isolation = files.pop("page/index.html").decode(), files.pop("page/coi.js")
    points = files.pop("page/points.html").decode()
    policy = "; ".join(f"{k} {v}" for k, v in POLICY.items())  # also in the pages, for hosts that send no headers
    policy_tag = f'<meta http-equiv="Content-Security-Policy" content="{policy}" />'
    head = f"""\
<meta name="engine" content="browser" />
    {policy_tag}
    <script src="coi.js"></script>"""
    html, count = re.subn('<meta name="engine" content="server" */?>', head, html)
    points, count_points = re.subn('(<meta charset="utf-8" */?>)', rf"\1\n    {policy_tag}", points)
    assert count == count_points == 1
    return {
        **files,
        "index.html": html.encode(),
        "points.html": points.encode(),
        "coi.js": isolation,  # at the root, because a service worker controls its own folder and those below
        "_headers": "".join(["/*\n", *(f"  {name}: {value}\n" for name, value in HEADERS.items())]).encode(),
        "LICENSE": MIT.format(holder="2026 The ShapeDreamer authors").encode(),
    }


def _runtime_files(tarball: Path | None) -> dict[str, bytes]:
    """The files of onnxruntime-web that the site needs, and their licence."""
    if tarball is None:
        with TemporaryDirectory() as folder:
            content = _download_runtime(Path(folder)).read_bytes()
    elif not tarball.is_file():
        raise UserError(f"there is no file {tarball}; `runtime` must be the tarball of {RUNTIME}")
    else:
        content = tarball.read_bytes()
    if (checksum := sha256(content).hexdigest()) != RUNTIME_SHA256:
        source = tarball or "the download from npm"
        raise UserError(f"{source} is not {RUNTIME}: its SHA-256 must be {RUNTIME_SHA256}, not {checksum}")
    files = {
        "runtime/LICENSE": MIT.format(holder="Microsoft Corporation").encode(),
        f"runtime/{NOTICES}": _notices().read_bytes(),
    }
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for name in RUNTIME_FILES:
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None  # guaranteed by the checksum
            if name.endswith(".wasm"):
                files[f"runtime/{name}.gz"] = gzip.compress(member.read(), mtime=0)
            else:
                files[f"runtime/{name}"] = member.read()
    return files


def _notices() -> Path:
    """The third-party notices of ONNX Runtime, in its Python package. UserError without the extra `export`."""
    require("onnxruntime", "export")
    package = importlib.util.find_spec("onnxruntime")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).with_name(NOTICES)


def _download_runtime(folder: Path) -> Path:
    """Download the tarball of RUNTIME with npm."""
    alternative = f"or download the tarball of {RUNTIME} elsewhere and pass it with `runtime=PATH`"
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"npm, which downloads {RUNTIME}, is not installed: install Node.js, {alternative}")
    result = subprocess.run([npm, "pack", "--prefer-offline", RUNTIME], cwd=folder, capture_output=True, text=True)
    tarballs = list(folder.glob("*.tgz"))
    if result.returncode or len(tarballs) != 1:
        reason = (result.stderr.strip() or "npm gave no reason").splitlines()[-1]
        raise UserError(f"npm could not download {RUNTIME} ({reason}): try again later, {alternative}")
    return tarballs[0]


def _write(files: Mapping[str, bytes], folder: Path) -> dict[str, int]:
    """Write the files, and then site.json, which lists everything in the folder. Returns the bytes of each file."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    sizes = {name: (folder / name).stat().st_size for name in sorted(names)}  # for the progress of downloads
    description = {"version": __version__, "runtime": RUNTIME, "files": sorted([*names, "site.json"]), "sizes": sizes}
    (folder / "site.json").write_text(json.dumps(description, indent=1))
    return {name: (folder / name).stat().st_size for name in description["files"]}


def _replace(out: Path, new: Path) -> None:
    """Move the folder `new` to `out`. An existing folder there moves next to `new`, and back if the move fails."""
    old = new.with_name("old")
    if out.exists():
        out.rename(old)
    try:
        new.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
