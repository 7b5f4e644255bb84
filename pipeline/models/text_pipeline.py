"""Loads a model's text encoders into its family's own pipeline in diffusers."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import diffusers
import transformers

from pipeline.diffusion.denoiser import Condition
from pipeline.models.families import family_named
from pipeline.models.family_facts import Text
from pipeline.models.micro_batch import MicroBatch
from pipeline.models.model_files import read_json
from pipeline.models.model_info import ModelInfo
from pipeline.models.text import TextEncoder, Tower
from pipeline.models.weights import WeightsError


def load_text(info: ModelInfo, load: Callable[..., Any], micro_batch: MicroBatch) -> TextEncoder:
    """The text encoders of a model, without those that its folder leaves out.

    Args:
        info: of a probed model.
        load: loads a network of (class, subfolder).
        micro_batch: how many texts per call.

    Raises:
        WeightsError: a tokenizer knows no word.
    """
    family = family_named(info.family)
    texts = [text for text in family.texts if text.folders[0] in info.components]
    towers = [_tower(info, text, load) for text in texts]
    pipeline = text_pipeline(info, towers)

    def encode(texts: list[str]) -> Condition:
        return family.condition(pipeline, texts, towers[0].encoder.device)

    index = read_json(info.folder / "model_index.json")
    empty_is_zero = bool(index.get("force_zeros_for_empty_prompt", family.zeros_for_empty))
    return TextEncoder(towers, encode, micro_batch, empty_is_zero=empty_is_zero)


def _tower(info: ModelInfo, text: Text, load: Callable[..., Any]) -> Tower:
    name, folder = text.folders
    tokenizer = _tokenizer(getattr(transformers, text.tokenizer), info.folder / folder)
    encoder = load(getattr(transformers, text.encoder), name)
    max_tokens = text.max_tokens
    if callable(max_tokens):
        max_tokens = max_tokens(tokenizer)
    elif max_tokens is None:
        positions = int(encoder.config.max_position_embeddings)
        max_tokens = min(int(tokenizer.model_max_length), positions)
        tokenizer.model_max_length = max_tokens  # where diffusers cuts
    return Tower(name, tokenizer, encoder, max_tokens, text.template)


def _tokenizer(kind: Any, folder: Any) -> Any:
    """A tokenizer that tells texts apart: one without words gives them all the same tokens."""
    tokenizer = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    # a text above the tokenizer's limit is cut, and a row's note says so
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    first, second = (tokenizer(text)["input_ids"] for text in ("cat", "dog"))
    if first == second:
        raise WeightsError(f"model.path: {folder}: its vocabulary knows no word")
    return tokenizer


def text_pipeline(info: ModelInfo, towers: Sequence[Tower], network: Any = None) -> Any:
    """The family's pipeline with nothing but text encoders and tokenizers in it.

    Args:
        info: of a probed model.
        towers: all that its folder has.
        network: also in the pipeline; None leaves the network's config in its place, which some
            families read the tokens' width from.
    """
    family = family_named(info.family)
    folders = dict(text.folders for text in family.texts)
    parts = {tower.name: tower.encoder for tower in towers}
    parts |= {folders[tower.name]: tower.tokenizer for tower in towers}
    kind = getattr(diffusers, family.pipelines[0])
    wanted = inspect.signature(kind.__init__).parameters.values()
    absent = {each.name: None for each in wanted if each.default is each.empty}
    del absent["self"]
    # each cut text would be a line in the log; rows say it where it matters
    logging.getLogger(kind.__module__).setLevel(logging.ERROR)
    options = dict(family.pipeline_options)
    if network is not None:
        return kind(**(absent | parts | {family.network[0]: network} | options))
    pipeline = kind(**(absent | parts | options))
    config = read_json(info.folder / family.network[0] / "config.json")
    setattr(pipeline, family.network[0], SimpleNamespace(config=SimpleNamespace(**config)))
    return pipeline
