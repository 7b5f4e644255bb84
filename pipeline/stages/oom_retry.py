"""Runs a stage with smaller micro-batches when memory runs out, and notes it in the rows."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.models.loading import LatentDiffusion
from pipeline.models.micro_batch import OutOfMemory, first_line, is_out_of_memory, release_memory
from pipeline.models.scorers import Scorers
from pipeline.records.part import Part


class OomRetry:
    """Runs a stage over a part with the configured micro-batch, halved when memory runs out.

    The halved size applies to the rest of this part. The next part starts with the configured
    size again. So a short lack of memory (another process on the same GPU) changes the last bits
    of one part only. A size that never fits costs one failed attempt per part, noted in every row.
    The VAE's size is halved apart from the network's.
    """

    def __init__(
        self, name: str, stage: Callable[[Part], Part], model: LatentDiffusion | Scorers
    ) -> None:
        self.name, self.stage, self.model = name, stage, model

    def __call__(self, part: Part) -> Part:
        """
        Raises:
            OutOfMemory: a single row does not fit, or memory ran out outside the networks.
        """
        for micro_batch in self.model.micro_batches:
            micro_batch.restore()
        in_flight = [edit for edit in part.edits if edit.pending]
        reason: OutOfMemory | None = None
        try:
            part = self.stage(part)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = error if isinstance(error, OutOfMemory) else OutOfMemory(first_line(error))
        for micro_batch in self.model.micro_batches:
            if not micro_batch.halvings:
                continue
            part.halvings[self.name] = part.halvings.get(self.name, 0) + micro_batch.halvings
            note = (
                f"{self.name}: out of memory; computed with {micro_batch.name} {micro_batch.size} "
                f"instead of {micro_batch.configured}"
            )
            for edit in in_flight:
                edit.notes.append(note)
        if reason is not None:
            release_memory()
            raise reason.with_traceback(None)
        return part
