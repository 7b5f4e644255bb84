"""Builds the stages of a method over a loaded model, and loads the model for them."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.config.config import Config
from pipeline.config.method import Method
from pipeline.config.stages import SCORE_STAGE, STAGES
from pipeline.models.device import set_tf32
from pipeline.models.loading import LatentDiffusion, Texts, load_model
from pipeline.models.scorers import load_scorers
from pipeline.models.suitability import check_suits
from pipeline.records.part import Part
from pipeline.stages.decode import DecodeStage
from pipeline.stages.encode import EncodeStage
from pipeline.stages.imagic.decode import ImagicDecodeStage
from pipeline.stages.imagic.fit import ImagicFitStage
from pipeline.stages.mask import MaskStage
from pipeline.stages.oom_retry import OomRetry
from pipeline.stages.score import ScoreStage

StageStep = Callable[[Part], Part]
VAE_HALF_OF = {"mask": "encoder", "decode": "decoder"}  # the half that a stage calls


def build_stage(config: Config, name: str, model: LatentDiffusion) -> StageStep:
    """Builds the stage ``name`` of the config's method over a loaded model."""
    check_suits(model.info, config)
    stage: StageStep
    if name == "mask":
        stage = MaskStage(model, config.method, config.run.seed)
    elif name in ("encode", "decode"):
        stage = stage_class(config.method, name)(model, config.method, config.run.seed)
    else:
        raise ValueError(f"no stage {name!r}; there are {', '.join(STAGES)}")
    return OomRetry(name, _in_tf32(stage) if config.model.tf32 else stage, model)


def _in_tf32(stage: StageStep) -> StageStep:
    """The stage, whose float32 networks compute in TF32 on a GPU."""

    def step(part: Part) -> Part:
        with set_tf32(True):
            return stage(part)

    return step


def stage_class(method: Method, name: str) -> Callable[..., StageStep]:
    """A method's class for stage ``encode`` or ``decode``; arguments: model, method, run seed."""
    if method.name == "imagic":
        return ImagicFitStage if name == "encode" else ImagicDecodeStage
    return EncodeStage if name == "encode" else DecodeStage


def load_stages(config: Config, pool: str, device: str) -> dict[str, StageStep]:
    """Loads the stages of a pool over one shared network, for one of its actors.

    Args:
        config: the run.
        pool: a name of ``Config.stages_by_pool``; "fused" has all stages.
        device: "cpu" or "cuda".

    Returns:
        The stages by name, in the order of the flow.
    """
    config = config.with_threads(config.threads)
    names = config.stages_by_pool("fused" if pool == "fused" else "pools")[pool]
    loaded: dict[str, StageStep] = {}
    on_model = [name for name in names if name != SCORE_STAGE]
    if on_model:
        halves = [half for name, half in VAE_HALF_OF.items() if name in on_model]
        sizes = {name: getattr(config.stages, name).micro_batch for name in on_model}
        stage = config.pool_stage(pool)
        texts: Texts = (
            "empty" if set(on_model) <= set(config.method.stages_without_texts) else "all"
        )
        model = load_model(config.model, device, stage, halves, set(sizes.values()), texts)
        for name, size in sizes.items():
            sized = model.with_micro_batch(size, config.model.vae_micro_batch)
            loaded[name] = build_stage(config, name, sized)
    if SCORE_STAGE in names:
        loaded[SCORE_STAGE] = load_score_stage(config, device)
    return loaded


def load_score_stage(config: Config, device: str) -> StageStep:
    """Loads the stage ``score`` with its networks."""
    scorers = load_scorers(config.scores, device, config.stages.score)
    stage = ScoreStage(scorers, config.method.composite)
    return OomRetry(SCORE_STAGE, stage, scorers)
