"""A stage that runs out of memory retries with half the micro-batch and notes it in the rows."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.execution.operators import Operator, compute_part
from pipeline.models.loading import LatentDiffusion
from pipeline.records.part import Part, Status
from pipeline.stages.build import build_stage
from tests.packed import from_bytes, to_bytes
from tests.parts import counted, make_config, make_part, make_prepared, required, run_stages

NETWORKS = {  # by stage: the networks that it calls with several rows
    "mask": ("unet", "vae.encode", "text"),
    "encode": ("unet",),  # it encodes a single text
    "decode": ("unet", "vae.decode", "text"),
}
CONFIG = make_config(steps=3, encode_ratio=0.7)
CASES = [(stage, network) for stage, networks in NETWORKS.items() for network in networks]


def starve(
    model: LatentDiffusion, network: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Makes a network raise CUDA's out-of-memory error when it gets more than ``rows`` rows."""
    owner: Any
    owner, name = {
        "unet": (model.unbatched.network, "forward"),
        "text": (model.text.towers[0].encoder, "forward"),
        "vae.encode": (model.image_coder.vae, "encode"),
        "vae.decode": (model.image_coder.vae, "decode"),
    }[network]
    call: Callable[..., Any] = getattr(owner, name)

    def starved(first: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(first) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0")
        return call(first, *args, **kwargs)

    monkeypatch.setattr(owner, name, starved)
    monkeypatch.setattr(gc, "collect", lambda: 0)  # takes a second in a process of many tests


def fresh_part() -> Part:
    samples = [make_prepared(number, "a cat", "a red dog", "a fox") for number in range(2)]
    return make_part(*samples, make_prepared(2, "a dog"))  # the last is unchanged


@pytest.fixture(scope="module")
def before(tiny_model: LatentDiffusion) -> dict[str, bytes]:
    """The part as input of each stage and after the last one, without memory errors."""
    part, states = fresh_part(), {}
    for name in NETWORKS:
        states[name] = to_bytes(part)
        part = run_stages(tiny_model.with_micro_batch(2), part, CONFIG, [name])
    return states | {"end": to_bytes(part)}


@pytest.mark.parametrize(("stage", "network"), CASES)
def test_out_of_memory_gives_the_same_images_and_a_note(
    stage: str,
    network: str,
    tiny_model: LatentDiffusion,
    before: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For each network of each stage, pixels differ by at most 1 and every row has the note."""
    model = tiny_model.with_micro_batch(2)
    part = from_bytes(before[stage])
    pending = [edit.pending for edit in part.edits]
    with monkeypatch.context() as patch:
        starve(model, network, 1, patch)
        part = compute_part(part, [Operator(stage, build_stage(CONFIG, stage, model))])
    assert part.halvings == {stage: 1}
    name = "vae_micro_batch" if network.startswith("vae") else "micro_batch"
    note = f"{stage}: out of memory; computed with {name} 1 instead of 2"
    assert [note in edit.notes for edit in part.edits] == pending
    later = list(NETWORKS)[list(NETWORKS).index(stage) + 1 :]
    part = run_stages(model, part, CONFIG, later)
    for edit, undisturbed in zip(part.edits, from_bytes(before["end"]).edits, strict=True):
        assert edit.status == undisturbed.status
        if edit.pending:
            difference = required(edit.image).astype(int) - required(undisturbed.image)
            assert np.abs(difference).max() <= 1


def test_the_next_part_starts_with_the_configured_size(
    tiny_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short lack of memory does not change the bytes of later parts."""
    model = tiny_model.with_micro_batch(4)
    stage = build_stage(CONFIG, "mask", model)
    plain = stage(fresh_part())
    with monkeypatch.context() as patch:
        starve(model, "unet", 2, patch)
        assert stage(fresh_part()).halvings == {"mask": 1}
    again = stage(fresh_part())
    assert again.halvings == {}
    assert to_bytes(again) == to_bytes(plain)


@pytest.mark.parametrize(("stage", "half"), [("mask", "encode"), ("decode", "decode")])
def test_the_vae_has_a_micro_batch_of_its_own(
    stage: str,
    half: str,
    tiny_model: LatentDiffusion,
    before: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It sets the VAE's rows, and halving it leaves the network's calls as they were."""

    def seen(vae_size: int | None, fits: int = 99) -> tuple[list[int], list[int]]:
        """Rows of the network's calls, and the VAE's."""
        model = tiny_model.with_micro_batch(4, vae_size)
        images: list[int] = []
        with monkeypatch.context() as patch, counted(model) as rows:
            starve(model, f"vae.{half}", fits, patch)
            limited = getattr(model.image_coder.vae, half)

            def recorded(first: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
                images.append(len(first))
                return limited(first, *args, **kwargs)

            patch.setattr(model.image_coder.vae, half, recorded)
            part = build_stage(CONFIG, stage, model)(from_bytes(before[stage]))
        assert part.halvings == ({} if fits == 99 else {stage: 1})
        assert not any(edit.status == Status.FAILED for edit in part.edits)
        return rows, images

    rows, images = seen(None)
    assert max(images) == 3  # all of three, or half of six
    assert seen(2) == (rows, [2] * (sum(images) // 2) + [1] * (sum(images) % 2))
    starved_rows, starved_images = seen(None, fits=2)
    assert starved_rows == rows
    assert max(starved_images[1:]) == 2


@pytest.mark.parametrize(("stage", "network"), CASES)
def test_part_that_fits_at_no_size_fails_with_the_reason(
    stage: str,
    network: str,
    tiny_model: LatentDiffusion,
    before: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows name the stage, the sizes tried and the allocator's message; finished rows stay."""
    model, part = tiny_model.with_micro_batch(2), from_bytes(before[stage])
    pending = [edit.pending for edit in part.edits]
    starve(model, network, 0, monkeypatch)
    part = compute_part(part, [Operator(stage, build_stage(CONFIG, stage, model))])
    for edit, was_pending in zip(part.edits, pending, strict=True):
        if not was_pending:
            assert edit.status == Status.UNCHANGED
            continue
        assert (edit.status, edit.stage, edit.error) == (Status.FAILED, stage, "OutOfMemory")
        assert "micro_batch 2, halved 1 times): CUDA out of memory" in (edit.message or "")
        assert "GPU 0" not in (edit.message or "")


def test_out_of_memory_outside_the_networks_fails_the_part(
    tiny_model: LatentDiffusion, before: dict[str, bytes]
) -> None:
    """If there is no micro-batch to halve, the error is OutOfMemory, not a class of torch."""

    def encode(texts: list[str]) -> None:
        torch.empty(2**60, dtype=torch.uint8)

    text = type("Text", (), {"encode": staticmethod(encode)})()
    stage = build_stage(CONFIG, "encode", replace(tiny_model, text=text))
    part = compute_part(from_bytes(before["encode"]), [Operator("encode", stage)])
    assert {edit.error for edit in part.edits if edit.status == Status.FAILED} == {"OutOfMemory"}
    assert part.halvings == {}
