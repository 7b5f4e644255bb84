"""Masked decoding: DiffEdit's step 3, over all edits of a part that share a number of steps."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from pipeline.diffusion.guidance import guided
from pipeline.diffusion.latents import blend, from_numpy
from pipeline.diffusion.schedule import Level
from pipeline.diffusion.solvers import ddim
from pipeline.models.loading import LatentDiffusion
from pipeline.words.config import Method
from pipeline.words.records import Edit, Part, Picture
from pipeline.words.settings import method_for

Pair = tuple[Picture, Edit]


class DecodeStage:
    """Gives each edit its picture; drops latents and trajectories, which nothing needs after it."""

    def __init__(self, model: LatentDiffusion, method: Method) -> None:
        self.model, self.method = model, method

    @torch.inference_mode()
    def __call__(self, part: Part) -> Part:
        part.device = self.model.device_kind
        groups: dict[tuple[int, bool], list[Pair]] = defaultdict(list)
        for picture in part.pictures:
            for edit in picture.pending:
                scale = method_for(self.method, picture).guidance_scale
                groups[len(from_numpy(picture.trajectory)) - 1, scale > 1.0].append((picture, edit))
        for (num_steps, is_guided), pairs in sorted(groups.items(), key=lambda item: item[0]):
            self._decode(num_steps, is_guided, pairs)
        for picture in part.pictures:
            picture.latent = picture.trajectory = None
        return part

    def _decode(self, num_steps: int, is_guided: bool, pairs: list[Pair]) -> None:
        """Decodes edits from the same level, under guidance or not."""
        device = self.model.device
        levels = self.model.schedule.levels(self.method.steps, num_steps / self.method.steps)
        text = self.model.text.encode([edit.edit_text or "" for _, edit in pairs])
        negative = self.model.text.encode([self.method.negative_text] * len(pairs))
        scales = [method_for(self.method, picture).guidance_scale for picture, _ in pairs]
        denoise = guided(self.model.denoiser, text, negative, torch.tensor(scales, device=device))
        trajectory = torch.stack([from_numpy(picture.trajectory) for picture, _ in pairs])
        clean = torch.stack([from_numpy(picture.latent) for picture, _ in pairs]).to(device)
        edit_mask = torch.stack([torch.from_numpy(edit.mask) for _, edit in pairs])[:, None]
        trajectory, edit_mask = trajectory.to(device), edit_mask.to(device)

        def keep_background(latent: Tensor, reached: Level) -> Tensor:
            # the background of the same level; in the end the clean latent, in full precision
            background = trajectory[:, reached.index].float() if reached.index else clean
            return blend(latent, background, edit_mask)

        start = trajectory[:, -1].float()
        latents = ddim(denoise, start, levels[::-1], keep_background)
        for (_, edit), latent in zip(pairs, latents, strict=True):
            self._note(edit)
            edit.num_evals_decode = num_steps * (2 if is_guided else 1)
            if not bool(latent.isfinite().all()):
                edit.fail("decode", "NonFinite", "the decoded latent is not finite")
        done = [place for place, (_, edit) in enumerate(pairs) if edit.pending]
        if done:
            images = self.model.pictures.decode_each(latents[done])
            for place, image in zip(done, images, strict=True):
                edit = pairs[place][1]
                edit.image = image
                if image is None:
                    edit.fail("decode", "NonFinite", "the VAE gives a picture that is not finite")

    def _note(self, edit: Edit) -> None:
        """What the mask stage notes too, where it infers a mask."""
        note = self.model.text.truncation_note("edit text", edit.edit_text or "")
        if note and note not in edit.notes:
            edit.notes.append(note)
