"""Copies between main memory and a device: equal values, and streams that wait where they must."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.models import transfer
from pipeline.models.autoencoder import ImageCoder
from pipeline.models.loading import LatentDiffusion
from pipeline.models.micro_batch import MicroBatch
from pipeline.models.transfer import Download, upload

gpu = pytest.mark.gpu
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def drawn(number: int, side: int = 16) -> list[np.ndarray]:
    rng = np.random.default_rng(number)
    return list(rng.integers(0, 256, (number, side, side, 3), dtype=np.uint8))


def test_on_a_cpu_nothing_is_copied() -> None:
    """Both ways hand over the very tensor that they were given."""
    tensor = torch.arange(6)
    assert upload(tensor, CPU) is tensor
    assert Download(tensor).wait() is tensor


def test_images_pass_the_vae_as_in_one_call_with_float32_inputs(
    tiny_model: LatentDiffusion,
) -> None:
    """Scaled after the copy, as uint8, they are the same to the last bit; both ways, in order."""
    vae, images = tiny_model.image_coder.vae, drawn(5)
    coder = ImageCoder(vae, MicroBatch(5))
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    with torch.inference_mode():
        latents = coder.encode(images)
        assert torch.equal(latents, vae.encode(pixels).latent_dist.mode() * coder.scale)
        decoded = vae.decode(latents / coder.scale, return_dict=False)[0]
        again = coder.decode(latents)
    expected = ((decoded + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    assert np.array_equal(again, expected.numpy())


def test_a_halved_micro_batch_gives_every_image_in_its_place(
    tiny_model: LatentDiffusion,
    monkeypatch: pytest.MonkeyPatch,
    tolerance: dict[torch.dtype, float],
) -> None:
    """Memory that runs out at a copy, either way, is met as anywhere else."""
    micro_batch = MicroBatch(4)
    coder = ImageCoder(tiny_model.image_coder.vae, micro_batch)
    images = drawn(5)
    with torch.inference_mode():
        expected = coder.encode(images)
        whole = coder.decode(expected)

        def too_much(tensor: Tensor, *rest: Any) -> None:
            if len(tensor) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")

        def scarce_up(host: Tensor, device: torch.device) -> Tensor:
            too_much(host)
            return upload(host, device)

        class ScarceDownload(Download):
            def __init__(self, tensor: Tensor) -> None:
                too_much(tensor)
                super().__init__(tensor)

        monkeypatch.setattr("pipeline.models.autoencoder.upload", scarce_up)
        monkeypatch.setattr("pipeline.models.autoencoder.Download", ScarceDownload)
        latents = coder.encode(images)
        assert micro_batch.halvings == 1
        micro_batch.restore()
        decoded = coder.decode(expected)
        assert micro_batch.halvings == 1
    assert (latents - expected).norm() <= tolerance[torch.float32] * expected.norm()
    assert np.abs(decoded.astype(int) - whole.astype(int)).max() <= 1


class Recorder:
    """Stands for streams, events and tensors of a GPU, and writes down what is asked of them."""

    def __init__(self, said: list[str], name: str) -> None:
        self.said, self.name, self.device = said, name, CUDA

    def __getattr__(self, call: str) -> Any:
        def recorded(*arguments: Any, **options: Any) -> Recorder:
            words = [a.name for a in arguments if isinstance(a, Recorder)]
            words += [f"{key}={value}" for key, value in options.items()]
            self.said.append(" ".join([self.name, call, *words]))
            return Recorder(self.said, {"pin_memory": "pinned", "to": "arrived"}.get(call, call))

        return recorded


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the copies ask of CUDA, in its order; there is none on this machine."""
    said: list[str] = []

    @contextmanager
    def on(stream: Recorder) -> Any:
        said.append(f"on {stream.name}")
        yield
        said.append(f"off {stream.name}")

    def empty_like(tensor: Recorder, **options: Any) -> Recorder:
        assert options == {"device": "cpu", "pin_memory": True}
        return Recorder(said, "pinned")

    monkeypatch.setattr(transfer, "_copy_stream", lambda device: Recorder(said, "copying"))
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Recorder(said, "computing"))
    monkeypatch.setattr(torch, "empty_like", empty_like)
    return said


def test_the_network_waits_for_what_comes_up(said: list[str]) -> None:
    """And the memory of its arrival, which the copying stream owns, is kept until it was read."""
    upload(Recorder(said, "host"), CUDA)  # type: ignore[arg-type]
    assert said == [
        "on copying",
        "host pin_memory",
        "pinned to non_blocking=True",
        "off copying",
        "computing wait_stream copying",
        "arrived record_stream computing",
    ]


def test_the_host_waits_for_what_goes_down_only_when_it_asks(said: list[str]) -> None:
    """The copy waits for the network, and the network's memory is kept until it was copied."""
    download = Download(Recorder(said, "result"))  # type: ignore[arg-type]
    assert said == [
        "copying wait_stream computing",
        "on copying",
        "pinned copy_ result non_blocking=True",
        "result record_stream copying",
        "copying record_event",
        "off copying",
    ]
    assert download.wait().name == "pinned"  # type: ignore[attr-defined]
    assert said[6:] == ["record_event synchronize"]


@gpu
def test_values_survive_both_ways_while_the_device_computes() -> None:
    """Many copies at once, pinned memory used again and again, behind long calls of the network."""
    busy = torch.randn(2048, 2048, device=CUDA)
    waiting = []
    for number in range(64):
        host = torch.full((256, 1024), number, dtype=torch.int32)
        busy = (busy @ busy).clamp(-1, 1)
        arrived = upload(host, CUDA)
        host.fill_(-1)
        waiting.append(Download(arrived * 2))
        del arrived
    for number, download in enumerate(waiting):
        assert torch.equal(download.wait(), torch.full((256, 1024), 2 * number, dtype=torch.int32))
        assert download.wait().is_pinned()


@gpu
def test_a_channels_last_view_keeps_its_strides() -> None:
    """So that the convolutions get the memory format that they would get without pinned memory."""
    host = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    arrived = upload(host[1:3], CUDA)
    assert arrived.stride() == host[1:3].stride()
    assert torch.equal(arrived.cpu(), host[1:3])
