"""The mean features of real images by class, with which CSFID compares edits.

The real images can be given in three forms:

REAL/160/*.JPEG          a folder for each class, named by the class number
REAL/n02088094/*.JPEG    ImageNet's 1,000 folders, whose sorted order gives the class numbers
REAL.safetensors         the means from an earlier evaluation: a tensor (D,) for each class number

FlexIT uses ImageNet's training set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from pipeline.evaluation.tasks import BenchmarkError
from pipeline.images.files import decode_image
from pipeline.images.geometry import place
from pipeline.storage.store import Store

IMAGENET_CLASSES = 1000
SIDE = 256  # pixels: the image size of FlexIT's protocol
SUFFIXES = ("jpg", "jpeg", "png", "webp")
MAX_PIXELS = 200_000_000
BATCH = 64  # images that threads decode before the network computes their features
READERS = 8

Pixels = NDArray[np.uint8]
Features = Callable[[Sequence[Pixels]], NDArray[np.floating]]
Means = Mapping[str, NDArray[np.floating]]


def check_real(real: Path, classes: Sequence[str]) -> None:
    """Checks ``REAL`` at start-up.

    Raises:
        BenchmarkError: it does not exist, or a class has no images or no mean.
    """
    if real.is_file():
        _saved(real, classes)
    else:
        find_images(real, classes)


def find_images(real: Path, classes: Sequence[str]) -> dict[str, list[Path]]:
    """Finds the image files of each class.

    Raises:
        BenchmarkError: the folder does not exist, or a class has no images.
    """
    if not real.is_dir():
        raise BenchmarkError(
            f"{real}: no such folder or file of real images; CSFID needs ImageNet's training "
            "set with a folder for each class, or class_means-*.safetensors of an earlier "
            "evaluation"
        )
    folders = sorted(path for path in real.iterdir() if path.is_dir())
    by_name = {path.name: path for path in folders}
    found = {}
    for number in classes:
        folder = by_name.get(number)
        if folder is None and len(folders) == IMAGENET_CLASSES and number.isdigit():
            folder = folders[int(number)]
        if folder is None:
            raise BenchmarkError(
                f"{real}: no folder for class {number}; allowed are folders named by class number, "
                f"or all {IMAGENET_CLASSES} folders of ImageNet (there are {len(folders)})"
            )
        files = sorted(path for path in folder.iterdir() if path.suffix[1:].lower() in SUFFIXES)
        if not files:
            raise BenchmarkError(f"{folder}: has no images ({', '.join(SUFFIXES)})")
        found[number] = files
    return found


def class_means(
    real: Path,
    classes: Sequence[str],
    features: Features,
    weights: str,
    home: Store,
    say: Callable[[str], None],
) -> Means:
    """The mean features of each class, computed once and then read from a file.

    Args:
        real: see the module's docstring.
        classes: the class numbers that are needed.
        features: computes the features of images with a side of ``SIDE`` pixels.
        weights: identifies the network, so that another network's means are never used.
        home: ``class_means-*.safetensors`` is written here after each class, so that a stopped run
            can resume.
        say: called with a line for each class.

    Raises:
        BenchmarkError: as ``check_real``.
    """
    if real.is_file():
        return _saved(real, classes)
    found = find_images(real, classes)
    digest = hashlib.sha256(f"{weights}\0{real.resolve()}".encode()).hexdigest()
    name = f"class_means-{digest[:12]}.safetensors"
    means = load(home.get(name)) if home.exists(name) else {}
    for position, number in enumerate(classes, start=1):
        if number not in means:
            means[number] = _mean(found[number], features)
            home.put(name, save(means))
            count = len(found[number])
            say(f"real images: class {number}, {count} files ({position} of {len(classes)})")
    return {number: means[number] for number in classes}


def at_side(image: Pixels | Image.Image, side: int = SIDE) -> Pixels:
    """The largest centered square of an image, scaled to ``side`` pixels bilinearly by Pillow."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    square = place(image.size, (side, side), "crop")
    return np.asarray(image.resize(square.model, Image.Resampling.BILINEAR, box=square.shown))


def _mean(files: Sequence[Path], features: Features) -> NDArray[np.float32]:
    total: NDArray[np.float64] | None = None
    with ThreadPoolExecutor(READERS) as pool:
        for batch in _batches(files):
            rows = features(list(pool.map(_read, batch))).astype(np.float64).sum(0)
            total = rows if total is None else total + rows
    assert total is not None  # find_images refuses a class without files
    return (total / len(files)).astype(np.float32)


def _read(path: Path) -> Pixels:
    try:
        image, _ = decode_image(path.read_bytes(), max_pixels=MAX_PIXELS, suffixes=SUFFIXES)
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{path}: {error}") from error
    return at_side(image)


def _batches(files: Sequence[Path]) -> Iterator[Sequence[Path]]:
    for start in range(0, len(files), BATCH):
        yield files[start : start + BATCH]


def _saved(path: Path, classes: Sequence[str]) -> Means:
    try:
        with safe_open(path, framework="numpy") as tensors:
            missing = [number for number in classes if number not in tensors.keys()]  # noqa: SIM118
            if missing:
                raise BenchmarkError(f"{path}: has no mean of class {missing[0]}")
            return {number: tensors.get_tensor(number) for number in classes}
    except SafetensorError as error:
        raise BenchmarkError(f"{path}: not safetensors: {error}") from None
