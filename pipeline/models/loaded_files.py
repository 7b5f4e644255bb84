"""What loading a model in diffusers' format reads: its weights, configs and tokenizers."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.config.model import Model
from pipeline.models.family import Family
from pipeline.models.model_files import ModelFiles
from pipeline.models.weight_files import (
    NETWORK_STEM,
    TEXT_STEM,
    ChosenWeights,
    choose_tokenizer,
    choose_weights,
)


def weights_of(
    files: ModelFiles, components: tuple[str, ...], model: Model
) -> dict[str, ChosenWeights]:
    """The weights to load, by component. Quantized ones are refused."""
    chosen = {}
    for name in components:
        if name.startswith(("tokenizer", "scheduler")):
            continue
        stem = TEXT_STEM if name.startswith("text_encoder") else NETWORK_STEM
        chosen[name] = choose_weights(files, name, model.dtype, stem, model.variant)
        if files.json(f"{name}/config.json").get("quantization_config"):
            raise files.error(f"{name}/ is quantized; allowed are plain weights")
    found = sorted({variant for weights in chosen.values() for variant in weights.others})
    allowed = ("auto", "plain", *found)
    if model.variant not in allowed:
        raise ValueError(
            f"model.variant={model.variant!r}: this model has no such weights; allowed are "
            f"{', '.join(allowed)}"
        )
    return chosen


def files_of(
    files: ModelFiles,
    family: Family,
    components: tuple[str, ...],
    weights: Mapping[str, ChosenWeights],
) -> tuple[str, ...]:
    """Every file that loading the model reads."""
    loaded = ["model_index.json", "scheduler/scheduler_config.json"]
    vocabularies = {text.folders[1]: text.vocabularies for text in family.texts}
    for name in components:
        if name in vocabularies:
            loaded += choose_tokenizer(files, name, vocabularies[name])
        elif name in weights:
            loaded += [f"{name}/config.json", *weights[name].files]
    return tuple(sorted(loaded))
