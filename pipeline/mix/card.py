"""The data set card of a mix: ``README.md`` in the form that the hub reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

import pipeline
from pipeline.mix.formats import data_files
from pipeline.mix.plan import MixPlan
from pipeline.mix.tables import MIXED, PAIRS
from pipeline.plan.run_folder import CONFIG_FILE
from pipeline.steps.marker import read_marker

BUNDLED_LICENSE = "apache-2.0"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
TEXTS = {
    "pairs": "Images before and after an edit, with an instruction, for training an editor.",
    "coco": "Images with captions and boxes in COCO's form.",
    "yolo": "Images with label files in YOLO's form.",
    "imagefolder": "Images in a folder for each class, with captions in `metadata.jsonl`.",
}
DEFAULT_TEXT = "Images with captions: originals and edits of them."


def card(plan: MixPlan, manifest: Mapping[str, Any], suffixes: Mapping[str, int]) -> bytes:
    """The card as it is first written: counts, sources, models with their licenses, settings.

    Args:
        plan: the mix.
        manifest: ``manifest.json``.
        suffixes: of the images, with their number.
    """
    head = yaml.safe_dump(_head(plan, manifest, suffixes), sort_keys=False, allow_unicode=True)
    body = "\n".join(_body(plan, manifest))
    return f"---\n{head}---\n\n{body}\n".encode()


def _head(
    plan: MixPlan, manifest: Mapping[str, Any], suffixes: Mapping[str, int]
) -> dict[str, Any]:
    """What the hub and ``load_dataset`` read."""
    form, splits = plan.mix.format, manifest["splits"]
    total = sum(split["original"] + split["edited"] for split in splits.values())
    head: dict[str, Any] = {
        "tags": ["overpaint", "synthetic", "image-editing"],
        "size_categories": [next((name for most, name in SIZES if total < most), "n>1M")],
    }
    files = [
        {"split": _split_name(name), "path": pattern}
        for name, split in splits.items()
        if split["shards"] and (pattern := data_files(form, name)) is not None
    ]
    if files:
        head["configs"] = [{"config_name": "default", "data_files": files}]
    if form == "webdataset" and len(suffixes) == 1:
        # Edits have files that originals lack; without names load_dataset refuses the tars.
        (suffix,) = suffixes
        features = [("__key__", "string"), (suffix, "image"), ("txt", "string")]
        named = [{"name": name, "dtype": kind} for name, kind in features]
        head["dataset_info"] = {"features": named}
    return head


def _split_name(name: str) -> str:
    """A split as ``datasets`` allows it."""
    return name.replace("-", "_")


def _body(plan: MixPlan, manifest: Mapping[str, Any]) -> Iterator[str]:
    mix = plan.mix
    yield "# Pairs for training an editor" if mix.format == "pairs" else "# Originals and edits"
    yield f"\n{TEXTS.get(mix.format, DEFAULT_TEXT)} Made by overpaint {pipeline.__version__}."
    yield "\n## Counts\n\n| split | originals | edits |\n|---|---|---|"
    for name, split in manifest["splits"].items():
        yield f"| {name} | {split['original']} | {split['edited']} |"
    for what, of in (("images", "pictures"), ("edits", "edits")):
        for reason, count in manifest[of]["left_out"].items():
            yield f"\n{count} {what} were left out: {reason}."
    yield "\n## Sources\n"
    shards = mix.input.shards
    for entry in [shards] if isinstance(shards, str) else shards:
        yield f"* originals: `{entry}`; their license is that of the source"
    yield from _models(plan)
    yield "\n## Settings\n\n```yaml"
    settings = {
        name: value for name, value in manifest["settings"].items() if value not in ({}, [])
    }
    yield yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).rstrip()
    yield "```"
    if mix.format in ("parquet", "pairs"):
        yield "\n## Columns\n"
        for item in PAIRS if mix.format == "pairs" else MIXED:
            yield f"* `{item.name}`"


def _models(plan: MixPlan) -> Iterator[str]:
    """A line for each output: the model that made its edits, its license, and the method."""
    for store, config in zip(plan.edited, plan.run_configs, strict=True):
        if config is None:
            yield f"* edits: `{store.url}`; it has no {CONFIG_FILE}, so its model is not known"
            continue
        path, revision = config.model.path, config.model.revision
        if not revision and plan.shards:
            marker = read_marker(store, plan.shards[0].shard.name)
            revision = marker.model_revision if marker is not None else None
        yield (
            f"* edits: `{store.url}`, by {config.method.name} with the model `{path}`"
            + (f" at `{revision}`" if revision else "")
            + f"; license of the model: {_license(path)}"
        )


def _license(model: str) -> str:
    """Known of the bundled model alone; a hub's page says that of the others."""
    if model == "bundled":
        return BUNDLED_LICENSE
    is_hub_id = model.count("/") == 1 and not model.startswith((".", "/", "~"))
    if is_hub_id:
        return f"see https://huggingface.co/{model}"
    return "see the page that it comes from"
