"""Plans a run: checks config, model, input and output, and lists the work that is left to do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.config.config import Config
from pipeline.config.load import ConfigError
from pipeline.models.file_hashes import FileHashes, recall_node, remember_node
from pipeline.models.model_info import ModelInfo
from pipeline.models.probe import probe_model
from pipeline.models.score_weights import ScorerFiles, probe_scores
from pipeline.models.suitability import check_suits, suitability_warnings
from pipeline.plan.auto import resolved
from pipeline.plan.cuts import Cuts, compare_cuts, saved_cuts
from pipeline.plan.filters import check_filters, read_filters
from pipeline.plan.fingerprint import fingerprint, fingerprint_inputs
from pipeline.plan.resume import same_run, saved_run
from pipeline.process.gc_pause import gc_paused
from pipeline.steps.read import count_edits
from pipeline.storage.layout import PartId, ShardState, output_state, progress_of
from pipeline.storage.shards import InputShard, check_output, list_shards
from pipeline.storage.store import Store

HASHES_FILE = "_run/model_files.json"  # size, times and sha256 of the models' local files
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)  # a run may hold a million of them
class ShardWork:
    """One input shard that is not published yet, and which of its parts are staged already."""

    shard: InputShard
    staged: frozenset[PartId] = frozenset()
    max_edits: int | None = None  # of the shard that input.limit cuts

    @property
    def num_staged(self) -> int:
        """Of the set of parts with the most staged ones; another content's do not count."""
        return progress_of(self.staged)[0]


@dataclass(frozen=True)
class Plan:
    """A checked run: everything that the driver, the local loop and ``--dry-run`` need."""

    config: Config
    device: str
    model: ModelInfo
    fingerprint: str
    fingerprint_inputs: dict[str, Any]
    work: list[ShardWork]
    published: list[str]
    inputs: dict[str, InputShard] = field(default_factory=dict)  # all shards by name, as listed
    left_out: list[str] = field(default_factory=list)  # lines on what is no shard beside them
    cuts: Cuts = field(default_factory=Cuts)  # what input.limit leaves of shards
    hashes: FileHashes = field(default_factory=FileHashes)  # of the models' local files

    @property
    def output(self) -> Store:
        return Store(self.config.output.path, self.config.output.storage_options)

    @property
    def num_shards(self) -> int:
        return len(self.work) + len(self.published)

    def still_to_do(self) -> Plan:
        """The same run; lists the output again and drops the work that is done by now."""
        every = {item.shard.name: item for item in self.work}
        work, done = _split(every, output_state(self.output))
        return replace(self, work=work, published=sorted({*self.published, *done}))

    def without_shards(self) -> Plan:
        """A copy for workers: small, however many shards the run has."""
        return replace(self, work=[], published=[], inputs={}, cuts=Cuts(), hashes=FileHashes())


@gc_paused()
def make_plan(
    config: Config,
    device: str,
    *,
    bfloat16: bool | None = None,
    on_work: Callable[[], None] | None = None,
) -> Plan:
    """Probes input, output and model, and lists what is left to do.

    Args:
        config: the configuration as loaded.
        device: "cpu" or "cuda": the resolved ``model.device``.
        bfloat16: whether the device has it in hardware; None: this machine's is asked.
        on_work: called once the listings show a shard that is not published, before the model is
            probed, which takes longest.

    Raises:
        ConfigError: one line that names the key, the value and what is allowed; or the file of
            the output that cannot be used.
    """
    try:
        listing = list_shards(config.input.shards, config.input.storage_options)
        shards = listing.shards
        check_output(config.output.path, shards, config.input.shards)
        output = Store(config.output.path, config.output.storage_options)
        _check_reachable(output)
        state = output_state(output)
        saved = saved_run(output)
        saved_filters = read_filters(output)
        cut_before = saved_cuts(output)
        hashes = _saved_hashes(output)
        if on_work is not None and not _all_published(shards, state):
            on_work()
        config = resolved(config, device, saved, bfloat16=bfloat16)
        model, scorers = _probed(config, hashes)
        remember_node(hashes)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    config = _pinned(config, model, scorers)
    inputs = _fingerprint_inputs(config, model, scorers, device)
    digest, inputs = same_run(config, saved, inputs, bool(state))
    try:
        check_filters(config.output.path, saved_filters, config.filtering)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    every, cut = _limited(config, shards)
    cuts = compare_cuts(cut_before, cut, every, state)
    up_to_date = {name: held for name, held in state.items() if name not in cuts.outdated}
    work, published = _split(every, up_to_date)
    listed = {name: item.shard for name, item in every.items()}
    return Plan(
        *(config, device, model, digest, inputs, work, published),
        inputs=listed,
        left_out=listing.left_out,
        cuts=cuts,
        hashes=hashes,
    )


def plan_in_memory(config: Config, device: str) -> Plan:
    """A run without shards, for parts in memory: probes the model, lists and writes nothing.

    Settings, threads and fingerprint are those of a new run with this configuration.

    Raises:
        ConfigError: see ``make_plan``.
    """
    hashes = FileHashes.from_json(recall_node(), b"{}")
    config = resolved(config, device, None)
    try:
        model, scorers = _probed(config, hashes)
        remember_node(hashes)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    config = _pinned(config, model, scorers)
    inputs = _fingerprint_inputs(config, model, scorers, device)
    return Plan(config, device, model, fingerprint(inputs), inputs, [], [], hashes=hashes)


def _probed(config: Config, hashes: FileHashes) -> tuple[ModelInfo, dict[str, ScorerFiles]]:
    """The model and the networks of the scores. Warns where settings do not suit the model."""
    model = probe_model(config.model, hashes=hashes)
    check_suits(model, config)
    for line in suitability_warnings(model, config):
        log.warning(line)
    return model, probe_scores(config.scores, hashes=hashes)


def _fingerprint_inputs(
    config: Config, model: ModelInfo, scorers: Mapping[str, ScorerFiles], device: str
) -> dict[str, Any]:
    revisions = {name: files.revision for name, files in scorers.items()}
    return fingerprint_inputs(config, model.content, device, revisions)


def _pinned(config: Config, model: ModelInfo, scorers: Mapping[str, ScorerFiles]) -> Config:
    """The configuration with what was found in place of branches: commits, and hashes of folders.

    It travels to the workers, so each loads what the driver found, also after a branch has moved,
    and refuses a folder that has changed.
    """
    chosen = config.scores.chosen
    scores = {
        name: chosen[name].model_copy(update={"revision": files.revision})
        for name, files in scorers.items()
    }
    return config.model_copy(
        update={
            "scores": config.scores.model_copy(update=scores),
            "model": config.model.model_copy(
                update={
                    "revision": model.revision,
                    "variant": model.variant,
                    "vae_revision": model.vae.revision if model.vae else None,
                    "lora": [
                        entry.model_copy(update={"revision": found.revision})
                        for entry, found in zip(config.model.lora, model.loras, strict=True)
                    ],
                }
            ),
        }
    )


def _all_published(shards: list[InputShard], state: dict[str, ShardState]) -> bool:
    return all(shard.name in state and state[shard.name].published for shard in shards)


def _check_reachable(output: Store) -> None:
    try:
        output.check_reachable()
    except OSError as error:
        raise ConfigError(f"output.path={output.url!r}: {error}") from error


def _split(
    every: dict[str, ShardWork], state: dict[str, ShardState]
) -> tuple[list[ShardWork], list[str]]:
    """(work, names of published shards) of this run, both sorted by name."""
    work, published = [], []
    for name, item in sorted(every.items()):
        shard_state = state.get(name)
        if shard_state is not None and shard_state.published:
            published.append(name)
        else:
            staged = shard_state.staged if shard_state else frozenset()
            work.append(ShardWork(item.shard, staged, item.max_edits))
    return work, published


def _limited(
    config: Config, shards: list[InputShard]
) -> tuple[dict[str, ShardWork], dict[str, int]]:
    """The shards that hold the first ``input.limit`` edits, in the order of their names.

    Also the edits of the shard that the limit cuts, if it ends inside one.
    """
    if not config.input.limit:
        return {shard.name: ShardWork(shard) for shard in shards}, {}
    chosen, cut, left = {}, {}, config.input.limit
    for shard in shards:
        if left <= 0:
            break
        num_edits = count_edits(shard, config.input)
        if left < num_edits:
            cut[shard.name] = left
        chosen[shard.name] = ShardWork(shard, max_edits=cut.get(shard.name))
        left -= num_edits
    return chosen, cut


def _saved_hashes(output: Store) -> FileHashes:
    """Which hashes of local model files are known, from this output or on this machine."""
    saved = output.get(HASHES_FILE) if output.exists(HASHES_FILE) else b"{}"
    return FileHashes.from_json(recall_node(), saved)
