"""The fingerprint: a hash of exactly the settings that change computed bytes."""

from __future__ import annotations

import pytest

from pipeline.config.load import apply_override, parse_config
from pipeline.plan.fingerprint import differences, fingerprint, fingerprint_inputs


def of(*overrides: str, revision: str = "r", device: str = "cpu") -> str:
    tree: dict = {"input": {"shards": "a"}, "output": {"path": "b"}}
    for override in overrides:
        apply_override(tree, override)
    return fingerprint(fingerprint_inputs(parse_config(tree), revision, device))


SDEDIT = "method.name=sdedit"
THREADS = [f"stages.{name}.threads=2" for name in ("mask", "encode", "decode")]


@pytest.mark.parametrize(
    "overrides",
    [
        ["run.seed=1"],
        ["run.part_size=8"],
        ["method.encode_ratio=0.5"],
        ["method.mask.floor=0.5"],
        ["method.solver=dpmpp_2m"],
        ["output.format=png"],
        ["model.dtype=bfloat16"],
        ["model.size=64"],
        ["model.buckets=auto"],
        ["model.buckets=[[64, 64]]"],
        ["stages.mask.micro_batch=7"],
        ["model.vae_micro_batch=7"],
        ["model.tf32=true"],
        ["scores.lpips.path=x"],
        ["output.keep_rejected=false"],
        THREADS,
        ["stages.decode.cpus=2", "run.layout=fused"],  # two threads
    ],
    ids=lambda overrides: overrides[0],
)
def test_settings_that_change_bytes_change_the_fingerprint(overrides: list[str]) -> None:
    """Each of these settings can change the output."""
    assert of(*overrides) != of()


@pytest.mark.parametrize("override", ["strength=0.4", "repeats=2", "ddim_eta=0.5"])
def test_sdedits_settings_change_the_fingerprint(override: str) -> None:
    """Each of them changes what SDEdit computes."""
    assert of(SDEDIT, f"method.{override}") != of(SDEDIT)


@pytest.mark.parametrize(
    "overrides",
    [
        ["run.layout=fused"],
        ["stages.decode.actors=3"],
        ["stages.decode.gpus=1"],
        ["stages.decode.cpus=2"],  # threads follow the smallest pool, which keeps one
        ["input.shards=c"],
        ["input.limit=10"],
        ["output.path=d"],
        ["run.grace_s=1"],
        ["input.storage_options={key: secret}"],
        ["filters=[mask_area <= 0.5]"],  # filters have their own fingerprint
        ["stages.score.micro_batch=7"],  # without a scorer there is no such stage
        ["scores.dtype=bfloat16"],
        ["model.path=elsewhere"],  # the content counts, not the path
        ["model.buckets=square"],
        ["model.vae_micro_batch=null"],
        ["model.tf32=false"],  # as before there was the key
    ],
    ids=lambda overrides: overrides[0],
)
def test_settings_that_change_no_byte_keep_the_fingerprint(overrides: list[str]) -> None:
    """A run can be resumed elsewhere, with more actors, or from a copy of the model."""
    assert of(*overrides) == of()


def test_square_outputs_have_no_buckets_in_their_fingerprint() -> None:
    """An output from before there were buckets can be resumed, and is square."""
    tree: dict = {"input": {"shards": "a"}, "output": {"path": "b"}}
    assert "buckets" not in fingerprint_inputs(parse_config(tree), "r", "cpu")["model"]
    square = fingerprint_inputs(parse_config(tree), "r", "cpu")
    tree["model"] = {"buckets": "auto"}
    auto = fingerprint_inputs(parse_config(tree), "r", "cpu")
    assert auto["model"]["buckets"] == "auto"
    line = "model.buckets: the output has 'square', this run asks for 'auto'"
    assert differences(square, auto) == [line]


def test_other_weights_change_the_fingerprint() -> None:
    """The path of the model stays the same."""
    assert of(revision="other") != of()


def test_scorers_change_the_fingerprint_by_what_they_compute() -> None:
    """Their content, settings, dtype and micro-batch count; their paths do not."""
    lpips = "scores.lpips={path: x}"
    assert of(lpips) == of("scores.lpips={path: y, revision: main}")
    for change in ("scores.lpips.net=vgg", "scores.dtype=bfloat16", "stages.score.micro_batch=7"):
        assert of(lpips, change) != of(lpips)
    config = parse_config(
        {"input": {"shards": "a"}, "output": {"path": "b"}, "scores": {"lpips": {"path": "x"}}}
    )
    first, second = (fingerprint_inputs(config, "r", "cpu", {"lpips": name}) for name in "ab")
    assert fingerprint(first) != fingerprint(second)


def test_threads_count_on_a_cpu_only() -> None:
    """On a GPU the host's threads change no bit."""
    assert of(*THREADS, device="cuda") == of(device="cuda")


def test_auto_threads_are_recorded_as_a_number() -> None:
    """The same number of threads gives the same fingerprint, however it was set."""
    cores = [f"stages.{name}.cpus=2" for name in ("mask", "encode", "decode")]
    assert of(*cores) == of(*THREADS) == of(THREADS[0]) != of()


def test_differences_name_the_keys() -> None:
    """Keys whose values differ are named one by one; nested keys are dotted."""
    lines = differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 5}, "d": 3})
    assert lines == ["a.c: the output has 2, this run asks for 5"]
