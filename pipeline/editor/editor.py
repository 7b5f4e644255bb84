"""An editor of single images: the steps of a run, over parts in memory."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.config.config import Config
from pipeline.config.load import load_tree, parse_config
from pipeline.editor.result import EditResult
from pipeline.execution.operators import Operator, compute_part, flow_of
from pipeline.plan.plan import plan_in_memory
from pipeline.process.allocator import use_expandable_segments
from pipeline.records.part import Part
from pipeline.records.rows import rows_of
from pipeline.steps.cut_parts import plan_parts
from pipeline.steps.filter import apply_filters
from pipeline.steps.grouping import RawSample
from pipeline.steps.read import owned, to_sample
from pipeline.steps.texts import LINE_END

ImageLike = Image.Image | np.ndarray | bytes | str | Path
BUNDLED = {"bundled": "demo"}  # the bundled model's own settings
KEY_DIGITS = 16


class Editor:
    """Edits images one call at a time, with the bytes of a run.

    Loads the networks once. Not for several threads at a time.
    """

    def __init__(
        self,
        config: str | Path | Config = "bundled",
        overrides: Sequence[str] = (),
        *,
        device: str | None = None,
    ) -> None:
        """Checks the configuration and loads its networks.

        Args:
            config: ``bundled`` (the demo model), a YAML file, the name of a bundled configuration
                such as ``diffedit_sd15_512``, or a ``Config``. Input and output need not be named.
            overrides: "key=value", e.g. "method.steps=20"; not with a ``Config``.
            device: "cpu" or "cuda"; None: that of ``model.device``, where "auto" takes a GPU if
                there is one.

        Raises:
            ConfigError: the configuration or the model cannot be used; one line says why.
        """
        if not isinstance(config, Config):
            config = _config(BUNDLED.get(str(config), config), list(overrides))
        elif overrides:
            raise ValueError("overrides go with the name of a configuration, not with a Config")
        plan = plan_in_memory(config, device or _device(config))
        self.config = plan.config
        self._flow = flow_of(plan)
        self._operators: list[Operator] = self._flow.load("fused")
        self._input = self.config.input.model_copy(
            update={"caption": ["txt"], "edits": ["edit.txt"], "substitutions": {}}
        )

    @overload
    def edit(
        self,
        image: ImageLike,
        caption: str,
        edit_text: str,
        *,
        mask: ImageLike | None = None,
        key: str | None = None,
        shard: str = "editor",
    ) -> EditResult: ...

    @overload
    def edit(
        self,
        image: ImageLike,
        caption: str,
        edit_text: list[str],
        *,
        mask: ImageLike | None = None,
        key: str | None = None,
        shard: str = "editor",
    ) -> list[EditResult]: ...

    @overload
    def edit(
        self,
        image: list[Any],
        caption: list[str],
        edit_text: list[str] | list[list[str]],
        *,
        mask: list[Any] | None = None,
        key: list[str] | None = None,
        shard: str = "editor",
    ) -> list[Any]: ...

    def edit(
        self,
        image: Any,
        caption: Any,
        edit_text: Any,
        *,
        mask: Any = None,
        key: Any = None,
        shard: str = "editor",
    ) -> Any:
        """Edits an image, or several as one batch.

        Args:
            image: a PIL image, (H, W, 3) uint8, the path of an image file or its bytes; or a list
                of them, and then the other arguments are lists of that length.
            caption: what is there.
            edit_text: what is wanted; a list of texts makes several edits of the image, which
                share its encoding.
            mask: replaces the inferred mask, as an image: white = edit.
            key: seeds the noise, with ``shard``: the same key gives the same edit. Default: digits
                of the image file's sha256, so that an edit does not depend on its neighbors.
            shard: the shard of a run that is to be repeated.

        Returns:
            A result, or a list of them where ``edit_text`` or ``image`` is a list. What cannot be
            edited has its reason in ``row``.

        Raises:
            ValueError: the arguments do not go together.
        """
        single = not isinstance(image, list)
        images = [image] if single else image
        captions, texts, masks, keys = (
            _for_each(name, value, single, len(images))
            for name, value in (
                ("caption", caption), ("edit_text", edit_text), ("mask", mask), ("key", key)
            )
        )  # fmt: skip
        raw = [self._raw(*of_one) for of_one in zip(images, captions, texts, masks, keys)]  # noqa: B905
        found = iter(self._results(raw, shard))
        results = [
            [next(found) for _ in text] if isinstance(text, list) else next(found) for text in texts
        ]
        return results[0] if single else results

    def _raw(self, image: Any, caption: str, texts: Any, mask: Any, key: str | None) -> RawSample:
        """A sample's files, as they stand in a shard."""
        texts = texts if isinstance(texts, list) else [texts]
        if not texts or not all(isinstance(text, str) for text in (caption, *texts)):
            raise ValueError("caption and edit_text are texts; give at least one edit text")
        if any(LINE_END.search(text) for text in texts):
            raise ValueError("an edit text is one line")
        suffix, data = _encoded(image, self._input.image)
        members = {suffix: data, "txt": caption.encode(), "edit.txt": "\n".join(texts).encode()}
        if mask is not None:
            members[self._input.mask.lower()] = _encoded(mask, ["png"])[1]
        return RawSample.of(key or hashlib.sha256(data).hexdigest()[:KEY_DIGITS], members)

    def _results(self, raw: list[RawSample], shard: str) -> list[EditResult]:
        """All edits, in their order; computed in parts, as in a run."""
        samples = owned([to_sample(one, self._input) for one in raw])
        sources = [
            next(bytes(data) for suffix, data in one.members.items() if suffix in self._input.image)
            for one, sample in zip(raw, samples, strict=True)
            for _ in sample.edits
        ]
        cut = plan_parts(samples, self.config.run.part_size)
        results: list[EditResult] = []
        for index, of_part in enumerate(cut):
            part = Part(shard, index, len(cut), of_part)
            part = compute_part(part, [self._flow.prepare, *self._operators, self._flow.finish])
            assert part.table is not None, "finish makes the table of every part"
            table = apply_filters(part.table, self.config.filtering)
            for row, files in zip(rows_of(table), _members(table), strict=True):
                results.append(
                    EditResult(
                        row,
                        files,
                        sources[len(results)],
                        self.config.output.format,
                        self.config.input.max_pixels,
                    )
                )
        return results


def _members(table: pa.Table) -> list[dict[str, bytes]]:
    """The files of each row by suffix."""
    rows = table.select(["members"]).to_pylist()
    return [{item["suffix"]: item["data"] for item in row["members"]} for row in rows]


def _config(name: str | Path, overrides: list[str]) -> Config:
    """The configuration of that name; input and output are not used and need not be named."""
    tree = load_tree(name, overrides)
    for section, key in (("input", "shards"), ("output", "path")):
        tree[section] = {key: "memory"} | (tree.get(section) or {})
    return parse_config(tree)


def _device(config: Config) -> str:
    if config.model.device != "auto":
        return config.model.device
    use_expandable_segments()  # before torch is imported
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _for_each(name: str, value: Any, single: bool, count: int) -> list[Any]:
    """A value for each image."""
    if single:
        return [value]
    if value is None:
        return [None] * count
    if not isinstance(value, list) or len(value) != count:
        raise ValueError(f"image is a list of {count}, so {name} must be a list of {count} too")
    return value


def _encoded(image: Any, suffixes: Sequence[str]) -> tuple[str, bytes]:
    """The suffix and the bytes of an image file; pixels become a PNG."""
    if isinstance(image, str | Path):
        suffix = Path(image).suffix.lstrip(".").lower()
        data = Path(image).read_bytes()
        return (suffix if suffix in suffixes else suffixes[0]), data
    if isinstance(image, bytes):
        return suffixes[0], image
    if isinstance(image, np.ndarray):
        is_image = image.dtype == np.uint8 and image.ndim in (2, 3)
        if not is_image or (image.ndim == 3 and image.shape[2] != 3):
            raise ValueError(
                f"an image is (H, W, 3) and a mask (H, W), both uint8, not {image.shape} "
                f"{image.dtype}"
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise ValueError(
            "an image is a PIL image, an array, a path or bytes, not " + type(image).__name__
        )
    if "png" not in suffixes:
        raise ValueError(f"input.image={list(suffixes)}: add png, which pixels are handed on as")
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return "png", sink.getvalue()
