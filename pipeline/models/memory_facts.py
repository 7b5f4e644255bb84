"""What networks need of a device's memory, as numbers. No torch: plans read them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CallMemory:
    """What calls of a network take beside its weights: ``fixed + rows * row`` bytes at their peak.

    Attributes:
        row: bytes for each row, or each image.
        fixed: bytes of a call of any size, e.g. position tables.
    """

    row: int
    fixed: int = 0

    def of(self, rows: int) -> int:
        """Bytes of a call with so many rows."""
        return self.fixed + rows * self.row

    def largest(self, room: float, most: int) -> int:
        """The largest power of two of rows, or ``most``, whose call fits; 0: not even one does."""
        if self.of(1) > room:
            return 0
        fitting = min(most, int((room - self.fixed) / max(1, self.row)))
        return most if fitting >= most else 1 << (fitting.bit_length() - 1)


@dataclass(frozen=True)
class CountedMemory:
    """Bytes of a model on its device, by the shapes of all tensors; libraries' workspaces are not.

    Attributes:
        network: weights.
        texts: weights of all text encoders.
        encoder, decoder: weights of the VAE's halves.
        condition: one text as the network takes it, in float32.
        of_network: calls of the network.
        of_texts: calls of the text encoders, one after the other.
        of_encoder, of_decoder: calls of the VAE's halves, by image.
        of_fit: a fit of Imagic, by edit; None: it is not counted.
    """

    network: int
    texts: int
    encoder: int
    decoder: int
    condition: int
    of_network: CallMemory
    of_texts: CallMemory
    of_encoder: CallMemory
    of_decoder: CallMemory
    of_fit: CallMemory | None = None
