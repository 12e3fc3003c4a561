"""Many samples, as a folder of files ("shards") that several processes write and that an interrupted job completes.

    samples/
        index.json           the model and all settings, written first
        samples-00000.npy    images 0…1023, (1024, C, H, W) float32 in [−1, 1]
        samples-00001.npy    images 1024…2047

or samples-00000.tar for WebDataset, with the 8-bit image 000000123.png, and its label as 000000123.cls (a number) or
000000123.json (names with amounts).

Image k depends on the model, the settings and k only: its noise and label are functions of (seed, k), and a shard is
always computed in the same batches. So the processes may share the shards in any way. A shard appears under its name
only when it is complete, and the memory needed does not grow with the number of images.
"""

import hashlib
import io
import json
import math
import os
import shlex
import socket
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from PIL import Image
from torch import Tensor

from ..common.device import has_fast_bf16
from ..common.errors import UserError
from ..common.files import atomic_file, is_temporary, naming_disk_errors, remove_leftovers, write_atomic
from ..common.lock import NAME as LOCK
from ..common.lock import lock_folder
from ..common.processes import SINGLE, Group, is_lost_connection, lost_process
from ..common.progress import Progress
from ..common.values import as_choice, as_int, as_path
from ..diffusion.samplers import sample
from ..models.model import MAX_BYTES, Model
from ..models.options import SampleOptions
from . import render

Format = Literal["npy", "tar"]

INDEX = "index.json"
KIND = "shapedreamer samples 1"  # what an index says that it is
BATCH = 64
SHARD_SIZE = 1024
MAX_NUM = 2**32  # images of one seed
MAX_SHARDS = 10**6
VISIBLE_TIMEOUT = 30  # seconds until a file must be visible on other machines that share the disk


@dataclass(frozen=True)
class Index:
    """The settings that determine every image of a folder, as index.json stores them.

    model:     its name or path; for people
    weights:   a hash of its weights and of the labels that it draws from
    images:    channels, height and width
    labels:    the names of the entries of a label vector
    precision: bfloat16 or float32
    guide:     a hash of the weights of the model in guide_with
    """

    kind: str
    model: str
    weights: str
    images: list[int]
    labels: list[str]
    num: int
    shard_size: int
    shards: Format
    sampler: str
    steps: int | list[int]
    eta: float
    seed: int
    label: Any
    guidance: float
    precision: str
    guidance_interval: list[float] | None = None
    guide: str | None = None
    cfg_pp: bool | None = None  # None: older folders have no such entry

    def to_json(self) -> str:
        """The content of index.json."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @property
    def count(self) -> int:
        """The number of shards."""
        return math.ceil(self.num / self.shard_size)

    def name(self, shard: int) -> str:
        """The file name of a shard."""
        return f"samples-{shard:05d}.{self.shards}"

    def rows(self, shard: int) -> range:
        """The numbers of the images in a shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.num))


def is_folder(out: str | Path) -> bool:
    """Whether `out` names a folder, not a file: it ends in /, has no suffix, or is a folder. UserError if empty."""
    if not str(out):
        raise UserError("`out` is empty; choose a file or a folder")
    return str(out).endswith(("/", os.sep)) or as_path("out", out).suffix == "" or as_path("out", out).is_dir()


def write_shards(
    model: Model,
    out: str | Path,
    num: int,
    options: SampleOptions = SampleOptions(),
    shards: Format = "npy",
    shard_size: int = SHARD_SIZE,
    *,
    name: str = "",
    group: Group = SINGLE,
    command: str = "the same call",
) -> Path:
    """Sample `num` images into the folder `out`, or complete one that was started with the same settings; return it.

    shards:     "npy" for float32 arrays, "tar" for WebDataset
    shard_size: images in a shard, and how many are in memory at a time
    name:       of the model, for index.json and messages
    group:      the processes that share the work, each of which calls this function. All must see the same disk
    command:    how to continue after an interruption, for messages

    UserError if the folder holds other files or was started with other settings, another process is writing to it, an
    option is out of range, or the disk is full.
    """
    index = make_index(model, num, options, name, shards, shard_size)
    folder = as_path("out", out)
    with _continuing(group, command), ExitStack() as stack:
        missing = group.first(lambda: _open_folder(stack, folder, index))
        _check_same_everywhere(folder, index, group)
        with Progress() if group.is_first else nullcontext() as progress:
            say = _say(progress)
            complete = index.count - len(missing)
            shards_text = f"{index.count} shard{'s' * (index.count != 1)} of up to {index.shard_size}"
            there = f", {complete} of them complete" if complete else ""
            among = f", in {group.size} processes" if group.size > 1 else ""
            say(f"sampling {index.num} images into {folder}, {shards_text}{there}{among}")
            try:
                _sample_shards(model, options, folder, index, missing, group, progress)
            except KeyboardInterrupt:
                say(f"stopped; complete shards are kept. Continue with: {command}")
                raise
            say(f"finished; to look at a shard:\n    {_look_command(folder / index.name(0))}")
    return folder


def make_index(
    model: Model, num: int, options: SampleOptions, name: str = "", shards: Format = "npy", shard_size: int = SHARD_SIZE
) -> Index:
    """The settings of a folder. UserError for one that is out of range."""
    spec, sampling = model.spec, model.resolve_sampling(options)
    as_choice("shards", shards, get_args(Format))
    num = as_int("num", num, 1, MAX_NUM)
    max_size = MAX_BYTES // (4 * spec.channels * spec.height * spec.width)
    shard_size = as_int("shard_size", shard_size, 1, max_size)
    if math.ceil(num / shard_size) > MAX_SHARDS:
        least = math.ceil(num / MAX_SHARDS)
        raise UserError(f"{num} images would be more than {MAX_SHARDS} shards; use `shard_size={least}` or more")
    if isinstance(options.label, Tensor):
        raise UserError("shards need one `label` for all images, or any, not a tensor of labels")
    model.stream(1, options)  # raises UserError for invalid options
    return Index(
        kind=KIND,
        model=name,
        weights=_hash(model),
        images=[spec.channels, spec.height, spec.width],
        labels=list(spec.labels),
        num=num,
        shard_size=shard_size,
        shards=shards,
        sampler=sampling.sampler,
        steps=sampling.steps if options.steps is None or isinstance(options.steps, int) else list(options.steps),
        eta=sampling.eta,
        seed=options.seed,
        label=list(options.label) if isinstance(options.label, tuple) else options.label,
        guidance=options.guidance,
        precision="bfloat16" if model.precision == "auto" and has_fast_bf16(model.device) else "float32",
        guidance_interval=list(options.guidance_interval) if options.guidance_interval else None,
        guide=None if options.guide_with is None else _hash(model.guide(options.guide_with)),
        cfg_pp=options.cfg_pp or None,
    )


def _hash(model: Model) -> str:
    digest = hashlib.sha256()
    tensors = dict(model.network.state_dict()) | ({} if model.labels is None else {"labels": model.labels})
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


# The folder


def _check_folder(folder: Path) -> None:
    """UserError if the path is a file, or a folder that holds other things than shards."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; choose the name of a folder for `out`")
    with naming_disk_errors(folder, action="read"):
        names = sorted(path.name for path in folder.iterdir())
    others = [name for name in names if name != LOCK and not is_temporary(name)]
    if others and INDEX not in others:
        raise UserError(f"{folder} already holds other files, such as {others[0]}; choose a new folder for `out`")


def _open_folder(stack: ExitStack, folder: Path, index: Index) -> list[int]:
    """Lock the folder until the stack closes; write index.json or check it; return the shards that are not complete."""
    _check_folder(folder)  # before there is a lock file in it
    stack.enter_context(lock_folder(folder))
    remove_leftovers(folder)
    path = folder / INDEX
    if path.exists():
        _check_same(folder, _read(path), index)
    else:
        write_atomic(path, index.to_json().encode())
    with naming_disk_errors(folder, action="read"), os.scandir(folder) as entries:
        sizes = {entry.name: entry.stat().st_size for entry in entries}
    return [shard for shard in range(index.count) if not _is_complete(folder, index, shard, sizes)]


def _read(path: Path) -> dict[str, Any]:
    with naming_disk_errors(path, action="read"):
        content = path.read_bytes()
    try:
        stored = json.loads(content)
    except ValueError:
        stored = None
    if not isinstance(stored, dict) or stored.get("kind") != KIND:
        raise UserError(f"{path} does not describe samples of this version; choose a new folder for `out`")
    return stored


def _check_same(folder: Path, stored: Mapping[str, Any], index: Index) -> None:
    """UserError, which names the differences, if a folder has other settings. The model may have another path now."""
    now = json.loads(index.to_json())
    changed = {key: (stored.get(key), value) for key, value in now.items() if key != "model"}
    changed = {key: (old, new) for key, (old, new) in changed.items() if old != new}
    if not changed:
        return
    if "weights" in changed and stored.get("model") != index.model:
        changed = {"model": (stored.get("model"), index.model)}  # the others follow from it
    changes = ", ".join(f"{key} = {old!r}, not {new!r}" for key, (old, new) in changed.items())
    raise UserError(f"{folder} was started with {changes}; use the same settings, or choose a new folder for `out`")


def _is_complete(folder: Path, index: Index, shard: int, sizes: Mapping[str, int]) -> bool:
    """Whether a shard is there. A file that was cut off, such as by an interrupted copy, does not count."""
    size = sizes.get(index.name(shard), 0)
    if index.shards == "npy":
        shape = (len(index.rows(shard)), *index.images)
        return size == len(render.array_header(shape)) + 4 * math.prod(shape)
    if size < 2 * tarfile.BLOCKSIZE or size % tarfile.RECORDSIZE:
        return False
    with naming_disk_errors(folder / index.name(shard), action="read"), (folder / index.name(shard)).open("rb") as file:
        file.seek(-2 * tarfile.BLOCKSIZE, os.SEEK_END)
        return not any(file.read())  # an archive ends with two empty blocks


def _check_same_everywhere(folder: Path, index: Index, group: Group) -> None:
    """UserError if this process has other settings than process 0, or does not see its files."""
    theirs = group.first(lambda: json.loads(index.to_json()))
    host = socket.gethostname()
    if theirs["precision"] != index.precision:
        raise UserError(
            f"{host} computes in {index.precision} and process 0 in {theirs['precision']}; use `precision='float32'`"
        )
    _check_same(folder, theirs, index)
    end = time.monotonic() + VISIBLE_TIMEOUT
    while not (folder / INDEX).exists():  # on a network drive it may take a while
        if time.monotonic() > end:
            raise UserError(f"{host} does not see {folder} of process 0; choose an `out` on a disk that both share")
        time.sleep(0.1)


# The images


def _sample_shards(
    model: Model,
    options: SampleOptions,
    folder: Path,
    index: Index,
    missing: list[int],
    group: Group,
    progress: Progress | None,
) -> None:
    """Sample the missing shards, dealt round robin. After each batch the processes learn whether all are alive."""
    done, total = 0, sum(len(index.rows(shard)) for shard in missing)
    for start in range(0, len(missing), group.size):
        shard = dict(enumerate(missing[start : start + group.size])).get(group.rank)
        rows = range(0) if shard is None else index.rows(shard)
        images = torch.empty(len(rows), *index.images)
        for first in range(0, index.shard_size, BATCH):
            part = rows[first : first + BATCH]
            if part:
                images[first : first + len(part)] = sample(model.stream(len(part), options, first=part.start))
            done += group.numbering(len(part))[1]
            if progress is not None:
                progress("sampling", done, total)
        if shard is not None:
            _write(model, options, folder / index.name(shard), index, images, rows.start)


def _write(model: Model, options: SampleOptions, path: Path, index: Index, images: Tensor, first: int) -> None:
    if index.shards == "npy":
        render.save_array(images, path)
        return
    labels = model.label_vectors(options.label, len(images), options.seed, first)
    write_tar(path, images, first, labels, index.labels, _are_classes(model, options))


def _are_classes(model: Model, options: SampleOptions) -> bool:
    """Whether the label of every image is a single one of the label names."""
    is_any = options.label == "any" and "any" not in model.spec.labels
    vectors = model.labels if is_any else model.label_vectors(options.label, 1)
    return vectors is not None and bool(((vectors == 1).sum(1) == 1).all() and ((vectors != 0).sum(1) == 1).all())


def write_tar(
    path: Path, images: Tensor, first: int, labels: Tensor | None, names: list[str], are_classes: bool
) -> None:
    """Write images (N, C, H, W) as a WebDataset archive: NUMBER.png for each, with the label as .cls or .json.

    labels:      (N, L), or None; are_classes: each is one of `names`, so that its number is enough
    """
    pixels = render.to_uint8(images)
    ustar = tarfile.USTAR_FORMAT
    with atomic_file(path, pixels.nbytes) as file, tarfile.open(fileobj=file, mode="w", format=ustar) as tar:
        for i, picture in enumerate(pixels):
            members = {"png": _png(Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture))}
            if labels is not None and are_classes:
                members["cls"] = str(int(labels[i].argmax())).encode()
            elif labels is not None:
                amounts = {name: amount for name, amount in zip(names, labels[i].tolist(), strict=True) if amount}
                members["json"] = json.dumps(amounts, ensure_ascii=False).encode()
            for ending, content in members.items():
                member = tarfile.TarInfo(f"{first + i:09d}.{ending}")  # the time stays 0: equal images, equal files
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


# What people read


@contextmanager
def _continuing(group: Group, command: str) -> Iterator[None]:
    """If another process has ended, say how to continue."""
    try:
        yield
    except RuntimeError as error:
        if group.size == 1 or not is_lost_connection(error):
            raise
        raise lost_process(error, f"Complete shards are kept. Continue with: {command}") from None


def _say(progress: Progress | None) -> Callable[[str], object]:
    if progress is None:
        return lambda text: None
    return partial(progress.console.print, markup=False, highlight=False)


def _look_command(path: Path) -> str:
    quoted = shlex.quote(str(path))
    if path.suffix == ".tar":
        return f"tar tf {quoted}"
    return f'python -c "import numpy, sys; print(numpy.load(sys.argv[1]).shape)" {quoted}'
