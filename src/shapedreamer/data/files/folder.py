"""A folder of your own images: PNG, JPEG, WebP, GIF (the first frame) and BMP files, and NumPy arrays.

    cats/a.png, dogs/old/b.jpg     the first level of subfolders gives the labels
    a.png, b.jpg                   no labels; next to subfolders, the label vectors of these images are all zeros
    many.npy                       (N, H, W), (N, H, W, C), (H, W) or (H, W, C) uint8, with C = 1, 3 or 4; a last axis
                                   of length 1, 3 or 4 is taken to be C
    many.npz                       one such array under any name, and optionally `labels`: class numbers, integers (N,)
                                   or (N, 1), or vectors (N, L), which replace the labels from subfolders

Files that cannot be read are skipped and reported on stderr. Hidden files and files with other extensions are ignored
and counted. Colour profiles are not applied. Of 16-bit channels, only the upper 8 bits are kept. limits.py says how
large files and images may be.
"""

import contextlib
import math
import stat
import sys
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ...common.errors import UserError
from ...common.names import Fit, Mode
from ..arrays import Arrays, split, split_index
from ..limits import (
    FREE_BYTES,
    MAX_FILES,
    MAX_FOLDERS,
    MAX_IMAGE_PIXELS,
    MAX_IMAGES,
    MAX_LABELS,
    MAX_PICTURE_BYTES,
    MAX_PICTURE_PIXELS,
    MAX_RATIO,
    MIN_BYTES_PER_IMAGE,
    allowed_bytes,
    bytes_on_disk,
    check_picture,
    check_unpacked,
    max_bytes_in_memory,
    megabytes,
    occupied_bytes,
    printable,
)
from .npy import RowsInFile, StoredArray, open_arrays
from .streaming import Digests, FileNames, Source, StreamedImages, label_vectors

Images = Arrays | StreamedImages

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # the only ones Pillow may try, as some others start programs
IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
ARRAY_EXTENSIONS = (".npy", ".npz")
CHANNELS = (1, 3, 4)
MAX_KINDS = 50  # of ignored files in the report
MAX_LISTED = 10  # files in the report, and sizes in an error
PROGRESS_DELAY = 2.0  # seconds before the progress bar appears
BATCH_PIXELS = 2**20  # of an array's images that are converted together


def load(
    path: Path,
    size: tuple[int, int] | None = None,
    fit: Fit = "none",
    mode: Mode = "auto",
    background: str = "white",
    samples: int | None = None,
) -> tuple[Images, Images]:
    """Read all images in a folder, sorted by path; arrays.split divides them into training and held-out data.

    Images that are larger than memory are only checked, and read again for each batch: see streaming.py.

    size        (height, width) of the result; None if all images have the same size
    fit         how to bring an image of another size to `size`. crop: scale it to cover the frame, and cut out the
                centre; pad: scale it to fit into the frame, and fill the rest with `background`; stretch: scale height
                and width independently
    mode        L is greyscale; auto is L if every image is grey, and RGB otherwise; only RGBA keeps transparency
    background  colour to put behind transparent images: a CSS name or #rrggbb
    samples     number of training images; None for all

    UserError if images differ in size and `fit` is none, if no file can be read, if an array has none of the forms
    above, or if labels are inconsistent.
    """
    for name, value, choices in (("fit", fit, get_args(Fit)), ("mode", mode, get_args(Mode))):
        if value not in choices:
            raise UserError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    if size is not None and min(size) < 1:
        raise UserError(f"size must be at least 1x1, not {_format_size(size)}")
    if samples is not None and samples < 1:
        raise UserError(f"samples must be at least 1, not {samples}")
    try:
        ImageColor.getrgb(background)
    except ValueError:
        raise UserError(f"{background!r} is not a colour; use a name such as white, or #rrggbb") from None
    if not path.is_dir():
        raise UserError(f"there is no folder {path}; pass a folder of images, or of subfolders with images")

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            images = _read(Folder(path), size, fit, mode, background)
            return split(images, samples) if isinstance(images, Arrays) else _split_source(images, samples)
        except UserError as error:  # names of files may contain line breaks
            raise UserError(printable(str(error))) from error
        except MemoryError:
            raise UserError(f"the images in {path} do not fit into memory; choose a smaller `size=(H, W)`") from None


def _split_source(source: Source, samples: int | None) -> tuple[StreamedImages, StreamedImages]:
    """Training images and held-out images, as in arrays.split."""
    training, held_out = split_index(source.digests, samples)
    with _progress(len(training), "checking") as advance:
        data = StreamedImages(source, training, advance)
    same = np.array_equal(training, held_out)
    return data, data if same else StreamedImages(source, held_out)


class Folder:
    """The contents of a folder: the files to read, and those that were skipped or ignored.

    files     the paths of image and array files, relative to the folder and sorted
    arrays    for the number of each file saved by NumPy: images (N, H, W, C) uint8, and labels or None
    skipped   relative paths of files and folders that could not be read -> why; those of folders end in a slash
    ignored   "hidden" or an extension -> number of files
    notes     how arrays of an ambiguous shape were read
    on_disk   bytes that the files occupy on disk

    UserError if it has too many files or folders, or if its arrays claim too much memory (see limits.py).
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = FileNames()
        self.arrays: dict[int, tuple[np.ndarray | RowsInFile, np.ndarray | None]] = {}
        self.skipped: dict[str, str] = {}
        self.ignored: Counter[str] = Counter()
        self.notes: list[str] = []
        self.on_disk = self.folders = 0
        self._walk(root, "", frozenset())
        claimed = 0
        for number, name in enumerate(self.files):
            if Path(name).suffix.lower() in ARRAY_EXTENSIONS and name not in self.skipped:
                with self.skipping(name):
                    images, labels, note = _load_array(self.path(number), claimed, self.on_disk)
                    self.arrays[number] = images, labels
                    claimed += 0 if isinstance(images, RowsInFile) else images.nbytes
                    if note:
                        self.notes.append(note)

    def _walk(self, folder: Path, relative: str, parents: frozenset[tuple[int, int]]) -> None:
        """Find the files in a folder, sorted by path. relative: "" for the root, otherwise it ends in a slash."""
        found: list[tuple[str, str]] = []  # path, which ends in a slash if it is a folder, and why it is skipped
        with self.skipping(relative or "./"):
            status = folder.stat()
            identity = (status.st_dev, status.st_ino)
            if identity in parents:  # a link to one of its own parents
                return
            self.folders += 1
            self._check_counts(0)
            for entry in folder.iterdir():
                extension = entry.suffix.lower()
                try:
                    status = entry.stat()
                    mode = status.st_mode
                except OSError:  # such as a broken link
                    mode = 0
                if entry.name.startswith("."):
                    self.ignored["hidden"] += 1
                elif stat.S_ISDIR(mode):
                    found.append((f"{relative}{entry.name}/", ""))
                elif extension in IMAGE_EXTENSIONS + ARRAY_EXTENSIONS:
                    reason = ""
                    if not stat.S_ISREG(mode):  # opening a named pipe would block until another program writes to it
                        reason = "not a regular file, or a broken link"
                    elif not status.st_size:
                        reason = "empty"
                    else:
                        self.on_disk += occupied_bytes(status)
                    found.append((f"{relative}{entry.name}", reason))
                    self._check_counts(len(found))
                else:
                    self.ignored[extension or "without extension"] += 1
        found.sort()  # as text, which gives the same order on every system
        found.reverse()
        while found:
            name, reason = found.pop()
            if name.endswith("/"):
                with self.skipping(name):
                    self._walk(self.root / name, name, parents | {identity})
                continue
            self.files.append(name)
            if reason:
                self.skipped[name] = reason

    def _check_counts(self, more_files: int) -> None:
        if self.folders > MAX_FOLDERS or len(self.files) + more_files > MAX_FILES:
            raise UserError(
                f"{self.root} has more than {MAX_FOLDERS:,} folders or {MAX_FILES:,} files, counting those behind "
                "links each time; choose a smaller folder"
            )

    def path(self, number: int) -> Path:
        """The path of a file."""
        return self.root / self.files[number]

    @contextlib.contextmanager
    def skipping(self, name: str) -> Iterator[None]:
        """If reading the file or folder with this relative path fails, record why in `skipped` and continue."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # decoders raise almost any exception on damaged files
            reason = error.strerror if isinstance(error, OSError) else None
            self.skipped[name] = sys.intern(printable(reason or str(error) or type(error).__name__))

    def read(self, number: int, max_pixels: int) -> Iterator[Image.Image | np.ndarray]:
        """Yield the images in a file: a picture, or batches (n, H, W, C) uint8 of an array; nothing if unreadable.

        UserError if a picture has more than max_pixels.
        """
        if number in self.arrays:
            images, _ = self.arrays[number]
            step = max(1, BATCH_PIXELS // math.prod(images.shape[1:3]))
            for first in range(0, len(images), step):
                yield images[first : first + step]
        elif (name := self.files[number]) not in self.skipped:
            picture = None
            with self.skipping(name):
                picture = _load_image(self.root / name, max_pixels)
            if picture:
                yield picture

    def sizes(self) -> Counter[tuple[int, int]]:
        """Count the images of each (height, width), according to the headers of the files."""
        sizes: Counter[tuple[int, int]] = Counter()
        for number, name in enumerate(self.files):
            if number in self.arrays:
                images, _ = self.arrays[number]
                height, width = images.shape[1:3]
                sizes[height, width] += len(images)
            elif name not in self.skipped:
                with self.skipping(name), _open(self.root / name) as image:
                    # the base class's getexif: that of a PNG would decode the pixels to find metadata after them
                    rotated = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) >= 5
                    sizes[image.size if rotated else image.size[::-1]] += 1
        return sizes

    def report(self) -> None:
        """Print to stderr how ambiguous arrays were read, and which files were skipped or ignored, if any were."""
        lines = self.notes[:MAX_LISTED]
        if len(self.notes) > MAX_LISTED:
            lines.append(f"and {len(self.notes) - MAX_LISTED} more arrays like these")
        if self.skipped:
            total = len(self.files) + sum(name.endswith("/") for name in self.skipped)
            lines.append(f"skipped {len(self.skipped)} of {total} files in {self.root}:")
            for name in sorted(self.skipped)[:MAX_LISTED]:
                lines.append(f"  {printable(name.removesuffix('/'))}: {self.skipped[name]}")
            if len(self.skipped) > MAX_LISTED:
                lines.append(f"  and {len(self.skipped) - MAX_LISTED} more")
        if self.ignored:
            kinds = sorted(self.ignored.items())
            more = sum(count for _, count in kinds[MAX_KINDS:])
            counts = ", ".join(f"{count} {printable(kind)}" for kind, count in kinds[:MAX_KINDS])
            counts += f" and {more} others" if more else ""
            lines.append(f"ignored files in {self.root}: {counts}")
        if lines:
            print("\n".join(lines), file=sys.stderr)


def _read(folder: Folder, size: tuple[int, int] | None, fit: Fit, mode: Mode, background: str) -> Arrays | Source:
    """Read all images of a folder: a Source if they do not fit into memory. The parameters are those of `load`."""
    target = size
    resizes = size is not None and fit != "none"
    max_pixels = MAX_PICTURE_PIXELS if resizes else MAX_IMAGE_PIXELS
    store = _Store(folder)
    counts = np.zeros(len(folder.files), np.uint32)  # of images from each file that could be read
    with _progress(len(folder.files)) as advance:
        for number in range(len(folder.files)):
            for batch in folder.read(number, max_pixels):
                image_size = (batch.height, batch.width) if isinstance(batch, Image.Image) else batch.shape[1:3]
                target = target or (image_size[0], image_size[1])
                if image_size != target and not resizes:
                    raise _different_sizes(folder, size)
                if not store.total:
                    store.fits(target, 1)
                pixels = _fit(batch, target, fit, mode, background)
                store.add(pixels)
                counts[number] += len(pixels)
            advance()
    folder.report()
    if target is None or not store.total:
        supported = " ".join(IMAGE_EXTENSIONS + ARRAY_EXTENSIONS)
        raise UserError(f"no image in {folder.root} could be read; supported files: {supported}")
    labels, names = _labels(folder, counts)
    title = printable(folder.root.resolve().name)
    if store.digests is None:
        return Arrays(title, store.images[: store.total], label_vectors(labels, len(names)), names)
    print(f"streaming from disk: {store.total:,} images, larger than memory", file=sys.stderr)

    starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    channels, frame = store.channels, target

    def file_of(image: int) -> int:
        return int(np.searchsorted(starts, image, "right")) - 1

    def decode(image: int) -> np.ndarray:
        number = file_of(image)
        batch: Image.Image | np.ndarray
        if number in folder.arrays:
            row = image - int(starts[number])
            batch = folder.arrays[number][0][row : row + 1]
        else:
            batch = _load_image(folder.path(number), max_pixels)
            if not resizes and batch.size != frame[::-1]:
                raise ValueError(f"its size is now {_format_size(batch.size[::-1])}")
        pixels: np.ndarray = _fit(batch, frame, fit, mode, background)[0]
        return pixels if pixels.shape[2] == channels else pixels.repeat(channels, axis=2)

    digests = store.digests.array()
    return Source(title, (*frame, channels), digests, labels, names, decode, lambda image: folder.path(file_of(image)))


class _Store:
    """The images that have been read: the images themselves while all fit into memory, otherwise only their digests.

    total     number of images
    channels  of all images; 0 at first, 1 while all are grey
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.capacity = len(folder.files) + sum(len(images) - 1 for images, _ in folder.arrays.values())
        self.images: np.ndarray = np.empty(0, np.uint8)
        self.digests: Digests | None = None
        self.total = self.channels = 0

    def add(self, pixels: np.ndarray) -> None:
        """Add images (n, H, W, C) uint8; H and W are always the same."""
        num, height, width, channels = pixels.shape
        if channels > self.channels:  # the first image, or the first colour image after grey ones
            fits = self.digests is None and self.fits((height, width), channels)
            if self.digests is None and not fits:
                self.digests = Digests()
                if self.total:
                    self.digests.add(self.images[: self.total])
                self.images = np.empty(0, np.uint8)
            elif fits and self.total:
                self.images = np.repeat(self.images, channels, axis=3)
            elif fits:
                self.images = np.empty((self.capacity, *pixels.shape[1:]), np.uint8)
            self.channels = channels
        if self.digests is None:
            self.images[self.total : self.total + num] = pixels
        else:
            self.digests.add(pixels)
        self.total += num

    def fits(self, size: tuple[int, int], channels: int) -> bool:
        """Whether all images of this size fit into memory. UserError if they could not be read in pieces either."""
        folder, each = self.folder, math.prod(size) * channels
        if math.prod(size) > MAX_IMAGE_PIXELS:
            raise _too_large(folder.root, size)
        unpacked = sum(len(images) for images, _ in folder.arrays.values() if not isinstance(images, RowsInFile))
        needed, allowed = unpacked * max(each, MIN_BYTES_PER_IMAGE), max(FREE_BYTES, MAX_RATIO * folder.on_disk)
        if needed > allowed:
            raise UserError(
                f"the images in {folder.root} do not fit into memory; choose a smaller `size=(H, W)`, or use fewer "
                f"images: {unpacked:,} images of {_format_size(size)} in arrays need {megabytes(needed)} (at least "
                f"{MIN_BYTES_PER_IMAGE} bytes each), and {megabytes(allowed)} are allowed for files of "
                f"{megabytes(folder.on_disk)}"
            )
        labels = len({name.partition("/")[0] for name in folder.files if "/" in name})
        in_memory = self.capacity * (each + 4 * labels)
        if in_memory <= min(allowed_bytes(folder.on_disk), max_bytes_in_memory()):
            return True
        if self.capacity > MAX_IMAGES:
            raise UserError(
                f"{folder.root} has {self.capacity:,} images, which do not fit into memory; at most {MAX_IMAGES:,} "
                "can be streamed from disk"
            )
        return False


def _too_large(source: Path, size: tuple[int, int]) -> UserError:
    return UserError(
        f"{source}: images of {_format_size(size)} (height x width) do not fit into memory; choose a smaller "
        f"`size=(H, W)`, of at most {MAX_IMAGE_PIXELS:,} pixels, with `fit` crop, pad or stretch"
    )


def _different_sizes(folder: Folder, size: tuple[int, int] | None) -> UserError:
    sizes = folder.sizes().most_common()
    listed = ", ".join(f"{_format_size(shape)} ({count})" for shape, count in sizes[:MAX_LISTED])
    more = f" and {len(sizes) - MAX_LISTED} other sizes" if len(sizes) > MAX_LISTED else ""
    return UserError(
        f"the images in {folder.root} are not all {_format_size(size) if size else 'the same size'} (height x width): "
        f"{listed}{more}; choose `size=(H, W)`, with `fit` crop, pad or stretch"
    )


def _format_size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


# reading a file


def _open(file: Path) -> Image.Image:
    if (size := file.stat().st_size) > MAX_PICTURE_BYTES:
        raise ValueError(f"{megabytes(size)}; at most {megabytes(MAX_PICTURE_BYTES)} are read from a picture file")
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise OSError(f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file") from None


def _load_image(file: Path, max_pixels: int) -> Image.Image:
    """Decode a picture in mode L (16-bit grey), RGB, or RGBA (with transparency).

    UserError if it has more than max_pixels; ValueError if it is damaged or exceeds the limits of limits.py.
    """
    with _open(file) as image:
        check_picture(image, file)
        if image.width * image.height > max_pixels:
            raise _too_large(file, image.size[::-1])
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
            grey16 = np.asarray(image)
            grey = Image.fromarray((grey16 >> 8).astype(np.uint8))
            key = image.info.get("transparency")
            opaque = None if key is None else grey16 != key
            if opaque is None or opaque.all():
                return grey
            return Image.merge("RGBA", [grey, grey, grey, Image.fromarray(opaque.astype(np.uint8) * 255)])
        return _in_mode(image, "RGBA" if image.has_transparency_data else "RGB")


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """The image in this mode, without a copy if it is already in it, but loaded."""
    image.load()
    return image if image.mode == mode else image.convert(mode)


def _load_array(file: Path, claimed: int, on_disk: int) -> tuple[np.ndarray | RowsInFile, np.ndarray | None, str]:
    """Read images (N, H, W, C) uint8, labels, and a note on how an ambiguous shape was read.

    Labels are (N,) integers, (N, L) numbers, or None if there are none.

    claimed: bytes of the arrays that have been read already from files with on_disk bytes in total
    ValueError if the file is damaged; UserError if its arrays do not have this form or claim too much memory.
    """
    try:
        with open_arrays(file) as arrays:
            stored = [array for array in arrays if array.name != "labels"]
            if len(stored) != 1:
                raise UserError(_not_one_array(file, arrays))
            [stored_images] = stored
            shape, note = _shape(file, stored_images)
            stored_labels = next((array for array in arrays if array.name == "labels"), None)
            if stored_labels:
                _check_labels(file, stored_labels.header.shape, stored_labels.header.dtype, shape[0])
            if _stays_on_disk(stored_images, claimed):
                return RowsInFile(file, shape), None, note
            sizes = (array.header.nbytes for array in (stored_images, stored_labels) if array)
            check_unpacked(f"{file} and other arrays" if claimed else file, claimed + sum(sizes), on_disk)
            images = stored_images.read().reshape(shape)
            labels = stored_labels.read() if stored_labels else None
    except zipfile.BadZipFile:
        raise
    except (ValueError, EOFError):
        raise ValueError("truncated, or not an array of numbers") from None
    if labels is not None:
        if labels.ndim == 2 and labels.shape[1] == 1 and labels.dtype.kind in "iu":  # a column of class numbers
            labels = labels[:, 0]
            note = note or f"{file}: labels of shape ({len(labels)}, 1) are read as class numbers"
        valid = labels.min(initial=0) >= 0 if labels.ndim == 1 else np.isfinite(labels.astype(np.float32)).all()
        if not valid:
            raise _labels_error(file, labels.shape, labels.dtype, len(images))
    return images, labels, note


def _stays_on_disk(array: StoredArray, claimed: int) -> bool:
    """Whether an array is too large for memory and can be read in rows: those of complete .npy files in C order can."""
    header = array.header
    is_npy = not array.name and not header.fortran_order
    is_large = claimed + header.nbytes > max_bytes_in_memory()
    return is_npy and is_large and bytes_on_disk([array.path]) >= header.nbytes


def _not_one_array(file: Path, arrays: list[StoredArray]) -> str:
    """The error for an .npz file with no array of images, or several."""
    names = [array.name for array in arrays if array.name != "labels"]
    found = ", ".join(names[:MAX_LISTED]) or "none"
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    shapes = {array.name: array.header.shape for array in arrays}
    images = next((name for name in names if len(shapes[name]) >= 3), None)
    labels = next(
        (name for name in names if images and name != images and shapes[name][:1] == shapes[images][:1]), None
    )
    advice = ""
    if images and images.isprintable():
        pair = f", labels=data[{labels!r}]" if labels else ""
        advice = f". To use {images}: data = numpy.load(...); numpy.savez('new.npz', images=data[{images!r}]{pair})"
    return f"{file} must contain one array of images besides 'labels'; found: {found}{more}{advice}"


# an error for these shapes would refuse legitimate images, so a note says how they are read
FLATTENED_WIDTHS = (784, 1024, 3072)  # MNIST, and CIFAR in grey and in colour
MIN_FLATTENED_SIDE, MIN_ASPECT = 4, 4


def _shape(file: Path, array: StoredArray) -> tuple[tuple[int, ...], str]:
    """The shape (N, H, W, C) in which to read an array, and a note if its own is ambiguous.

    UserError if it is not uint8, or if the shape is unsupported or too ambiguous to read.
    """
    shape, dtype = array.header.shape, array.header.dtype
    if dtype != np.uint8:
        raise UserError(_convert_advice(file, array))
    note = ""
    if len(shape) == 2:
        H, W = shape
        if reshape := _flattened((H, W)):
            raise UserError(
                f"{file} has shape {shape}: {H} flattened images, or one image {H} pixels high and {W} wide? Save "
                f"{reshape} for {H} images, or x[None] for one image"
            )
        full: tuple[int, ...] = (1, H, W, 1)
        note = f"{file} has shape {shape}: read as one image, {H} pixels high and {W} wide" if min(shape) > 0 else ""
    elif len(shape) == 3 and shape[2] in CHANNELS:
        full = (1, *shape)
    elif len(shape) == 3:
        full = (*shape, 1)
        if shape[0] in (3, 4):
            note = (
                f"{file} has shape {shape}: read as {shape[0]} grey images of {shape[1]}x{shape[2]}; for one colour "
                "image, save x.transpose(1, 2, 0)"
            )
    else:
        full = shape
    if len(full) != 4 or full[3] not in CHANNELS or math.prod(full) < 1 or min(full) < 1:
        first = len(shape) == 4 and shape[1] in CHANNELS
        advice = "; if its channels come first, save x.transpose(0, 2, 3, 1)" if first else ""
        raise UserError(
            f"{file} has shape {shape}; it must be (N, H, W), (N, H, W, C), (H, W) or (H, W, C), with C = 1, 3 or "
            f"4{advice}"
        )
    return full, note


def _flattened(shape: tuple[int, int]) -> str:
    """How to reshape (N, D) if it looks like N flattened square images; "" if it does not."""
    N, D = shape
    if N == D or (D not in FLATTENED_WIDTHS and max(N, D) < MIN_ASPECT * min(N, D)):
        return ""
    side = math.isqrt(D)
    if side >= MIN_FLATTENED_SIDE and side * side == D:
        return f"x.reshape(-1, {side}, {side})"
    side = math.isqrt(D // 3)
    if side >= MIN_FLATTENED_SIDE and 3 * side * side == D:
        channels_first = f"x.reshape(-1, 3, {side}, {side}).transpose(0, 2, 3, 1)"
        return f"x.reshape(-1, {side}, {side}, 3), or {channels_first} if the channels of a row come one by one,"
    return ""


FROM_PLUS_MINUS_1 = "((x + 1) * 127.5).round().astype('uint8')"
FROM_0_TO_1 = "(x * 255).round().astype('uint8')"
FROM_BYTES = "x.round().astype('uint8')"


def _convert_advice(file: Path, array: StoredArray) -> str:
    """The error for an array that is not uint8: how to convert it, and the range of its values."""
    dtype = array.header.dtype
    advice = (
        f"{file} contains {dtype}; it must contain uint8 in 0…255. Convert from [-1, 1] with {FROM_PLUS_MINUS_1}, "
        f"from [0, 1] with {FROM_0_TO_1}, from 0…255 with {FROM_BYTES}"
    )
    if dtype.kind not in "biuf" or not math.prod(array.header.shape):
        return advice
    values = array.read()
    if not np.isfinite(values).all():
        return f"{advice}. First replace the values that are not finite, with numpy.nan_to_num(x)"
    low, high = float(values.min()), float(values.max())
    if low < -1 or high >= 2**16:
        use = "((x - x.min()) * (255.0 / (x.max() - x.min()))).round().astype('uint8')"
    elif low < 0:
        use = FROM_PLUS_MINUS_1
    elif high <= 1:
        use = FROM_0_TO_1
    else:
        use = FROM_BYTES if high <= 255 else "(x // 257).astype('uint8')"
    return f"{advice}. The values in this file are {low:g} to {high:g}: use {use}"


def _check_labels(file: Path, shape: tuple[int, ...], dtype: np.dtype, num: int) -> None:
    """UserError if labels of this shape and type do not fit `num` images."""
    classes = shape == (num,) and dtype.kind in "iu"
    vectors = len(shape) == 2 and shape[0] == num and dtype.kind in "biuf"
    if not (classes or vectors):
        raise _labels_error(file, shape, dtype, num)
    if vectors and shape[1] > MAX_LABELS:
        raise UserError(f"{file} has {shape[1]} labels; at most {MAX_LABELS} are supported")


def _labels_error(file: Path, shape: tuple[int, ...], dtype: np.dtype, num: int) -> UserError:
    advice = "; convert class numbers with labels.astype(int)" if shape == (num,) and dtype.kind == "f" else ""
    return UserError(
        f"the labels in {file} are {shape} {dtype}; they must be class numbers, ({num},) integers from 0, or vectors, "
        f"({num}, L) finite numbers{advice}"
    )


# resizing


def _fit(batch: Image.Image | np.ndarray, size: tuple[int, int], fit: Fit, mode: Mode, background: str) -> np.ndarray:
    """Turn a picture, or images (n, h, w, c) uint8, into images (n, H, W, C) of this size.

    The other parameters are those of `load`. C is 1 in mode auto if all of them are grey.
    """
    if isinstance(batch, Image.Image):
        result = np.asarray(_resize(_convert(batch, mode, background), size, fit, background)).reshape(1, *size, -1)
    elif batch.shape[1:3] == size:  # stacked to one tall picture, as no step depends on the neighbours of a pixel
        n, height, width, channels = batch.shape
        tall = batch.reshape(n * height, width, channels)
        result = np.asarray(_convert(_from_pixels(tall), mode, background)).reshape(n, *size, -1)
    else:
        result = np.concatenate(
            [_fit(_from_pixels(pixels), size, fit, "RGB" if mode == "auto" else mode, background) for pixels in batch]
        )
    is_grey = mode == "auto" and (result == result[..., :1]).all()
    return result[..., :1] if is_grey else result


def _from_pixels(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[..., 0])


def _convert(image: Image.Image, mode: Mode, background: str) -> Image.Image:
    """The image in this mode; transparent pixels show the background unless it is RGBA."""
    if image.mode == "RGBA" and mode != "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, ImageColor.getrgb(background)[:3]), image)
    # for auto, work in RGB because the background may be coloured, then check whether the result is grey
    return _in_mode(image, "RGB" if mode == "auto" else mode)


def _resize(image: Image.Image, size: tuple[int, int], fit: Fit, background: str) -> Image.Image:
    (w, h), (H, W) = image.size, size
    if (h, w) == size or fit == "stretch":
        return _scale(image, W, H)
    if fit == "crop":
        # the largest centred part that has the frame's aspect ratio
        part_w, part_h = min(w, max(1, round(h * W / H))), min(h, max(1, round(w * H / W)))
        left, top = (w - part_w) // 2, (h - part_h) // 2
        return _scale(image.crop((left, top, left + part_w, top + part_h)), W, H)
    inner_w, inner_h = min(W, max(1, round(w * H / h))), min(H, max(1, round(h * W / w)))
    frame = Image.new(image.mode, (W, H), ImageColor.getcolor(background, image.mode))
    frame.paste(_scale(image, inner_w, inner_h), ((W - inner_w) // 2, (H - inner_h) // 2))
    return frame


def _scale(image: Image.Image, W: int, H: int) -> Image.Image:
    """Scale an image to W x H.

    Integer factors keep pixel art sharp: each pixel becomes a block of equal pixels, or each block becomes its mean.
    """
    w, h = image.size
    if (w, h) == (W, H):
        return image
    if W * h > MAX_PICTURE_PIXELS:  # the size of what Pillow computes in between
        raise UserError(f"cannot scale {h}x{w} pixels to {H}x{W} (height x width); choose a smaller `size=(H, W)`")
    if W % w == 0 and H % h == 0:
        method = Image.Resampling.NEAREST
    elif w % W == 0 and h % H == 0:
        method = Image.Resampling.BOX
    elif W <= w and H <= h:
        method = Image.Resampling.LANCZOS
    else:
        method = Image.Resampling.BICUBIC
    return image.resize((W, H), method)


# labels


def _labels(folder: Folder, counts: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return labels, as in streaming.label_vectors, and their names. counts: (F,) images from each file."""
    files = np.flatnonzero(counts)
    by_file = [folder.arrays[number][1] if number in folder.arrays else None for number in files.tolist()]
    arrays = [labels for labels in by_file if labels is not None]
    if not arrays:
        return _subfolder_labels(folder, counts)
    for number, labels in zip(files.tolist(), by_file, strict=True):
        if labels is None:
            raise UserError(
                f"{folder.path(number)} has no `labels`, but another array in {folder.root} does; give labels to every "
                "file or to none"
            )
    if len({labels.shape[1:] for labels in arrays}) > 1:
        shapes = ", ".join(str(labels.shape) for labels in arrays)
        raise UserError(f"the `labels` of the arrays in {folder.root} have different shapes: {shapes}")
    joined = np.concatenate(arrays)
    if joined.ndim == 1:
        count = int(joined.max()) + 1
        _check_label_count(folder, count)
        joined = joined.astype(np.int64)
    else:
        count = joined.shape[1]
    return joined, [str(i) for i in range(count)]


def _subfolder_labels(folder: Folder, counts: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Label each image with its subfolder. The class number of images at the top level means no label."""
    read = np.flatnonzero(counts).tolist()
    names = sorted({name.partition("/")[0] for name in map(folder.files.__getitem__, read) if "/" in name})
    _check_label_count(folder, len(names))
    class_of = {name: i for i, name in enumerate(names)}
    classes = np.full(len(counts), len(names), np.int16)
    for number in read:
        first, slash, _ = folder.files[number].partition("/")
        if slash:
            classes[number] = class_of[first]
    return np.repeat(classes, counts), [printable(name) for name in names]


def _check_label_count(folder: Folder, count: int) -> None:
    if count > MAX_LABELS:
        raise UserError(f"{folder.root} has {count} labels; at most {MAX_LABELS} are supported")


# progress


@contextlib.contextmanager
def _progress(total: int, verb: str = "reading") -> Iterator[Callable[[], None]]:
    """Yield a function to call after each file; after PROGRESS_DELAY it shows a bar and the time left on stderr."""
    columns = TextColumn(verb), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(elapsed_when_finished=True)
    progress = Progress(*columns, console=Console(stderr=True))
    task = progress.add_task("", total=total)
    start = time.monotonic()

    def advance() -> None:
        progress.advance(task)
        if time.monotonic() - start > PROGRESS_DELAY:
            progress.start()

    try:
        yield advance
    finally:
        if progress.live.is_started:
            progress.stop()
