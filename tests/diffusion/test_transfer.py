"""Copies between main memory and a device: values are equal, and streams wait where they must."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.diffusion import transfer
from pipeline.diffusion.transfer import Download, upload, upload_stacked
from pipeline.models.loading import LatentDiffusion
from pipeline.models.micro_batch import MicroBatch
from pipeline.records.packing import join

gpu = pytest.mark.gpu
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def drawn(number: int, side: int = 16) -> list[np.ndarray]:
    rng = np.random.default_rng(number)
    return list(rng.integers(0, 256, (number, side, side, 3), dtype=np.uint8))


def test_on_a_cpu_nothing_is_copied() -> None:
    """Upload and download return the same tensor object."""
    tensor = torch.arange(6)
    assert upload(tensor, CPU) is tensor
    assert Download(tensor).wait() is tensor


def test_uploading_uint8_equals_one_call_with_float32_inputs(
    tiny_model: LatentDiffusion,
) -> None:
    """Images that are scaled after the copy give the same latents and images, bit for bit."""
    vae, images = tiny_model.image_coder.vae, drawn(5)
    coder = tiny_model.image_coder.with_micro_batch(MicroBatch(5))
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    with torch.inference_mode():
        latents = coder.encode(images)
        assert torch.equal(latents, vae.encode(pixels).latent_dist.mode() * coder.scale)
        decoded = vae.decode(latents / coder.scale, return_dict=False)[0]
        again = coder.decode(latents)
    expected = ((decoded + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    assert np.array_equal(again, expected.numpy())


def test_out_of_memory_in_a_copy_halves_the_micro_batch(
    tiny_model: LatentDiffusion,
    monkeypatch: pytest.MonkeyPatch,
    tolerance: dict[torch.dtype, float],
) -> None:
    """When an upload or a download runs out of memory, all images still come out in order."""
    micro_batch = MicroBatch(4)
    coder = tiny_model.image_coder.with_micro_batch(micro_batch)
    images = drawn(5)
    with torch.inference_mode():
        expected = coder.encode(images)
        whole = coder.decode(expected)

        def check_size(tensor: Tensor) -> None:
            if len(tensor) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")

        def limited_upload(host: Tensor, device: torch.device) -> Tensor:
            check_size(host)
            return upload(host, device)

        class LimitedDownload(Download):
            def __init__(self, tensor: Tensor, into: Tensor | None = None) -> None:
                check_size(tensor)
                super().__init__(tensor, into)

        monkeypatch.setattr("pipeline.models.autoencoder.upload", limited_upload)
        monkeypatch.setattr("pipeline.models.autoencoder.Download", LimitedDownload)
        latents = coder.encode(images)
        assert micro_batch.halvings == 1
        micro_batch.restore()
        decoded = coder.decode(expected)
        assert micro_batch.halvings == 1
    assert (latents - expected).norm() <= tolerance[torch.float32] * expected.norm()
    assert np.abs(decoded.astype(int) - whole.astype(int)).max() <= 1


class Recorder:
    """A fake for streams, events and tensors of a GPU that logs all calls."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name, self.device = log, name, CUDA

    def __getattr__(self, call: str) -> Any:
        def recorded(*arguments: Any, **options: Any) -> Recorder:
            words = [a.name for a in arguments if isinstance(a, Recorder)]
            words += [f"{key}={value}" for key, value in options.items()]
            self.log.append(" ".join([self.name, call, *words]))
            return Recorder(self.log, {"pin_memory": "pinned", "to": "arrived"}.get(call, call))

        return recorded


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The CUDA calls of the copies, in order, with CUDA replaced by fakes."""
    log: list[str] = []

    @contextmanager
    def on(stream: Recorder) -> Any:
        log.append(f"on {stream.name}")
        yield
        log.append(f"off {stream.name}")

    def empty_like(tensor: Recorder, **options: Any) -> Recorder:
        assert options == {"device": "cpu", "pin_memory": True}
        return Recorder(log, "pinned")

    monkeypatch.setattr(transfer, "_copy_stream", lambda device: Recorder(log, "copying"))
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Recorder(log, "computing"))
    monkeypatch.setattr(torch, "empty_like", empty_like)
    return log


def test_compute_stream_waits_for_an_upload(log: list[str]) -> None:
    """The uploaded tensor's memory, owned by the copy stream, is kept until it has been read."""
    upload(Recorder(log, "host"), CUDA)  # type: ignore[arg-type]
    assert log == [
        "on copying",
        "host pin_memory",
        "pinned to non_blocking=True",
        "off copying",
        "computing wait_stream copying",
        "arrived record_stream computing",
    ]


def test_host_waits_for_a_download_only_in_wait(log: list[str]) -> None:
    """The copy waits for the network, whose memory is kept until it has been copied."""
    download = Download(Recorder(log, "result"))  # type: ignore[arg-type]
    assert log == [
        "copying wait_stream computing",
        "on copying",
        "pinned copy_ result non_blocking=True",
        "result record_stream copying",
        "copying record_event",
        "off copying",
    ]
    assert download.wait().name == "pinned"  # type: ignore[attr-defined]
    assert log[6:] == ["record_event synchronize"]


def test_a_download_into_an_array_reads_a_contiguous_copy(log: list[str]) -> None:
    """A copy between different strides would make the host wait. On a CPU it is made at once."""
    into: Any = Recorder(log, "rows")
    assert Download(Recorder(log, "result"), into).wait() is into  # type: ignore[arg-type]
    assert log[:4] == [
        "result contiguous",
        "copying wait_stream computing",
        "on copying",
        "rows copy_ contiguous non_blocking=True",
    ]
    images = torch.zeros(3, 2)
    assert Download(torch.ones(2, 1).expand(2, 2), images[1:]).wait() is not None
    assert images.tolist() == [[0, 0], [1, 1], [1, 1]]


def test_decoded_images_are_rows_of_one_array(tiny_model: LatentDiffusion) -> None:
    """Whatever the micro-batch, so a part of them is packed without a copy."""
    coder = tiny_model.image_coder.with_micro_batch(MicroBatch(2))
    with torch.inference_mode():
        images = coder.decode_each(coder.encode(drawn(5)))
    arrays = [image for image in images if image is not None]
    joined, _ = join(arrays)
    assert len(arrays) == 5
    assert all(np.shares_memory(joined, array) for array in arrays)


@gpu
def test_stacked_arrays_arrive_while_the_device_computes() -> None:
    """Pinned memory that is reused for the next arrays does not change the ones before."""
    busy, arrived = torch.randn(2048, 2048, device=CUDA), []
    for number in range(64):
        busy = (busy @ busy).clamp(-1, 1)
        arrays = [np.full((64, 1024), number * 2 + row, np.uint16) for row in range(2)]
        arrived.append(upload_stacked(arrays, CUDA))
    for number, tensor in enumerate(arrived):
        assert tensor.dtype == torch.bfloat16
        assert tensor.view(torch.int16)[:, 0, 0].tolist() == [number * 2, number * 2 + 1]


@gpu
def test_copies_are_correct_while_the_device_computes() -> None:
    """Many copies that reuse pinned memory, queued behind long computations, keep their values."""
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
    """Convolutions get the same memory format as without pinned memory."""
    host = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    arrived = upload(host[1:3], CUDA)
    assert arrived.stride() == host[1:3].stride()
    assert torch.equal(arrived.cpu(), host[1:3])
