"""What an actor needs of its device's memory, stage by stage, and the largest sizes that fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config.config import Config
from pipeline.config.stages import STAGES
from pipeline.models.memory_facts import CallMemory, CountedMemory
from pipeline.sizing.estimate import MEMORY_SHARE, Estimate
from pipeline.sizing.part_memory import FLOAT32
from pipeline.sizing.pools import Node

# An actor's process on a CPU before it loads a network: torch, diffusers and transformers.
PROCESS_BYTES = 500_000_000
# A heap on a CPU keeps blocks that are freed: with glibc calls take 1.0 to 2.6 times what is alive,
# measured with the bundled model at its sizes (tests/models/test_counted_memory.py).
HEAP = 2.0
VAE_HALF_OF = {"mask": "encoder", "decode": "decoder"}  # the half that a stage calls


@dataclass(frozen=True)
class StageMemory:
    """What a stage needs beside the weights, in bytes, and the largest sizes that fit.

    Attributes:
        row: of the network, with its text; None: the stage asks no network.
        image: of the VAE; None: the stage has none.
        part: arrays and texts of a part on the device.
        needed: weights, part, and calls of the configured sizes.
        micro_batch, vae_micro_batch: the largest that fit, at most what a part has; 0: none does;
            None: the memory is not known, or there is no such call.
    """

    row: int | None
    image: int | None
    part: int
    needed: int
    micro_batch: int | None = None
    vae_micro_batch: int | None = None


@dataclass(frozen=True)
class ActorMemory:
    """What an actor of a pool holds on its device.

    Attributes:
        pool: its name.
        weights: bytes of its networks, once loaded.
        loading: the most bytes of networks while it loads.
        usable: of the device, in bytes; None: not known.
        stages: by name; of score none, and of Imagic's fit none where it is not counted.
        parts: bytes of the ``PARTS_IN_ACTOR`` parts in its main memory; 0: not known.
        part_size: the largest ``run.part_size`` whose parts fit there; None: not known.
    """

    pool: str
    weights: int
    loading: int
    usable: int | None
    stages: dict[str, StageMemory]
    parts: int = 0
    part_size: int | None = None


def actors_memory(
    config: Config,
    device: str,
    expected: Estimate,
    nodes: Sequence[Node],
    counted: CountedMemory,
    latent_cells: int,
    device_bytes: int | None = None,
) -> list[ActorMemory]:
    """The memory of an actor of each pool.

    Args:
        config: of the run, with sizes.
        device: "cpu" or "cuda".
        expected: the estimate of the run, with the actors of each pool.
        nodes: of the cluster.
        counted: of the model, for its largest images.
        latent_cells: C * h * w of a latent.
        device_bytes: of a GPU, or on a CPU of an actor; None: on a GPU as calibrated, on a CPU an
            equal share of the smallest node.
    """
    actors = []
    for pool, names in config.stages_by_pool(expected.layout).items():
        stages = [name for name in names if name in STAGES]
        if not stages:
            continue
        loading, weights = _weights(config, stages, counted)
        parts, main = expected.memory_bytes.get(pool, 0), _main_memory(expected, nodes)
        if device == "cuda":
            total = device_bytes or expected.device_bytes
            share = min(1.0, config.pool_stage(pool).gpus_per_actor(device) or 1.0)
            usable = int(MEMORY_SHARE * share * total) if total else None
        else:
            main = main if device_bytes is None else int(MEMORY_SHARE * device_bytes)
            usable = None if main is None else max(0, main - PROCESS_BYTES - parts)
        found = {
            name: _of_fit(config, device, counted.of_fit, counted, weights, usable)
            if name == "encode" and counted.of_fit is not None
            else _of_stage(config, device, name, counted, weights, latent_cells, usable)
            for name in stages
            if name != "encode" or config.method.imagic is None or counted.of_fit is not None
        }
        part_size = None
        if parts and main is not None:
            free = main - PROCESS_BYTES - (weights if device == "cpu" else 0)
            part_size = max(0, free * config.run.part_size // parts)
        actors.append(ActorMemory(pool, weights, loading, usable, found, parts, part_size))
    return actors


def _main_memory(expected: Estimate, nodes: Sequence[Node]) -> int | None:
    """An actor's share of the smallest node, all pools alike; None: a node does not say."""
    smallest = min((node.memory_bytes for node in nodes), default=0.0)
    on_a_node = -(-sum(expected.sizes.values()) // max(1, len(nodes)))
    return int(MEMORY_SHARE * smallest / max(1, on_a_node)) if smallest else None


def _weights(config: Config, stages: Sequence[str], counted: CountedMemory) -> tuple[int, int]:
    """(at the peak of loading, once loaded). The VAE comes last, and whole."""
    halves = {VAE_HALF_OF[name] for name in stages if name in VAE_HALF_OF}
    vae = sum(getattr(counted, half) for half in halves)
    whole = counted.encoder + counted.decoder
    if not set(stages) <= set(config.method.stages_without_texts):
        return counted.network + counted.texts + whole, counted.network + counted.texts + vae
    embedding = counted.texts + counted.of_texts.of(1)
    # LoRAs are fused into both at once (pipeline/models/loading.py)
    first = embedding + (counted.network if config.model.lora else 0)
    kept = counted.network + counted.condition
    return max(first, kept + whole), kept + vae


def _of_stage(
    config: Config,
    device: str,
    name: str,
    counted: CountedMemory,
    weights: int,
    latent_cells: int,
    usable: int | None,
) -> StageMemory:
    method, size = config.method, getattr(config.stages, name).micro_batch
    asks = name not in method.stages_without_network
    half = VAE_HALF_OF.get(name)
    row = _with_text(counted, embeds=name not in method.stages_without_texts) if asks else None
    image: CallMemory | None = getattr(counted, f"of_{half}") if half else None
    heap = HEAP if device == "cpu" else 1.0
    vae_size = config.model.vae_micro_batch or size
    calls = [heap * row.of(size)] if row else []
    calls += [heap * image.of(min(vae_size, config.run.part_size))] if image else []
    part = _part(config, name, counted, latent_cells)
    room = None if usable is None else (usable - weights - part) / heap
    return StageMemory(
        row=row.row if row else None,
        image=image.row if image else None,
        part=part,
        needed=weights + part + int(max(calls, default=0)),
        micro_batch=row.largest(room, _rows(config, name)) if row and room is not None else None,
        vae_micro_batch=(
            image.largest(room, config.run.part_size) if image and room is not None else None
        ),
    )


def _of_fit(
    config: Config,
    device: str,
    fit: CallMemory,
    counted: CountedMemory,
    weights: int,
    usable: int | None,
) -> StageMemory:
    """Imagic's fit of as many edits as the micro-batch has rows for, or of all weights for one."""
    imagic, size = config.method.imagic, config.stages.encode.micro_batch
    assert imagic is not None, "it has a fit"
    heap = HEAP if device == "cpu" else 1.0
    if imagic.rank is None:
        # Adam's step on a GPU makes a list of all its divisors, beside gradients and two states
        whole = fit.row if device == "cpu" else max(fit.row, 4 * counted.network)
        needed = weights + whole + (counted.network if device == "cpu" else 0)  # to restore
        fits = None if usable is None else imagic.draws * int(needed <= usable)
        return StageMemory(whole // imagic.draws, None, 0, needed, fits)
    edits = max(1, size // imagic.draws)
    room = None if usable is None else (usable - weights) / heap
    return StageMemory(
        row=fit.row // imagic.draws,
        image=None,
        part=0,
        needed=weights + int(heap * fit.of(edits)),
        micro_batch=None
        if room is None
        else imagic.draws * fit.largest(room, config.run.part_size),
    )


def _with_text(counted: CountedMemory, *, embeds: bool) -> CallMemory:
    """A row of the network or, if the stage embeds texts and they take more, of their encoders."""
    network, texts = counted.of_network, counted.of_texts
    row = network.row + counted.condition
    if not embeds:
        return CallMemory(row, network.fixed)
    return CallMemory(max(row, texts.row), max(network.fixed, texts.fixed))


def _rows(config: Config, name: str) -> int:
    """The most rows that a part gives the network at once."""
    edits, mask = config.run.part_size, config.method.mask
    if name == "mask":
        return 2 * edits * mask.num_noises
    return edits if name == "encode" else 2 * edits


def _part(config: Config, name: str, counted: CountedMemory, latent_cells: int) -> int:
    """Bytes of a part's latents and texts on the device, as if each image had one edit."""
    method, latent = config.method, FLOAT32 * latent_cells
    levels = max(1, round(method.steps * method.ratio)) + 1
    if name == "mask":
        draws = method.mask.num_noises * len(method.mask.noise_level)
        infers = method.mask.source == "infer"
        each = latent + (3 * draws * latent + 2 * counted.condition if infers else 0)
    elif name == "encode":
        each = 2 * levels * latent
    else:
        each = (levels + 4) * latent + counted.condition
    return config.run.part_size * each
