"""Trains the bundled model: `python -m jobs.train_demo.command STAGE [--resume] [--minutes M]`."""

from __future__ import annotations

import argparse
import signal
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.multiprocessing.spawn import spawn

SETTINGS = Path(__file__).with_name("settings.yaml")
STAGES = ("vae", "joins", "latents", "unet", "decoder", "edits", "classifier")


def main() -> None:
    """Reads the settings and runs one stage, or all in order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=(*STAGES, "export", "all"))
    parser.add_argument("--config", type=Path, default=SETTINGS)
    parser.add_argument(
        "--resume", action="store_true", help="continue from the stage's checkpoint"
    )
    parser.add_argument("--minutes", type=float, help="wall-clock budget of the stage")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        help="on a CPU: number of workers with one thread each, whose gradients are averaged",
    )
    arguments = parser.parse_args()
    if arguments.processes == 1:
        run(0, arguments, None)
        return
    # On a busy machine two processes with one thread each are much faster than one process with two
    # threads, in which every operator waits for the slower thread (next to another job: 44 instead
    # of 8 samples/s).
    with tempfile.TemporaryDirectory() as folder:
        spawn(run, (arguments, f"file://{folder}/store"), nprocs=arguments.processes)  # type: ignore[no-untyped-call]  # torch 2.13 has no types for it


def run(rank: int, arguments: argparse.Namespace, store: str | None) -> None:
    """Runs the stages as one of `--processes` workers."""
    if store:
        # The parent's death sends SIGINT, which background jobs of a shell ignore by default.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)
        torch.distributed.init_process_group(
            "gloo", store, rank=rank, world_size=arguments.processes
        )
    settings = yaml.safe_load(arguments.config.read_text())
    folder = Path(settings["folder"])
    for stage in STAGES if arguments.stage == "all" else (arguments.stage,):
        if stage == "export":
            from jobs.train_demo.export import export

            export(settings, folder)
            continue
        values = dict(settings[stage])
        if arguments.minutes:
            values["minutes"] = arguments.minutes
        run_stage(stage, values, folder, device=arguments.device, resume=arguments.resume)


def run_stage(
    stage: str, settings: dict[str, Any], folder: Path, *, device: str, resume: bool
) -> None:
    """Runs one stage, with the settings in its section of the config."""
    if stage == "vae":
        from jobs.train_demo.vae import train_vae

        train_vae(settings, folder / "vae", device=device, resume=resume)
    elif stage == "joins":
        from jobs.train_demo.joins import train_joins

        train_joins(settings, folder, device=device, resume=resume)
    elif stage == "latents":
        from jobs.train_demo.latents import encode_latents

        encode_latents(settings, folder)
    elif stage == "unet":
        from jobs.train_demo.unet import train_unet

        train_unet(settings, folder, device=device, resume=resume)
    elif stage == "decoder":
        from jobs.train_demo.decoder import train_decoder

        train_decoder(settings, folder, device=device, resume=resume)
    elif stage == "edits":
        from jobs.train_demo.edits import train_on_edits

        train_on_edits(settings, folder, device=device, resume=resume)
    elif stage == "classifier":
        from jobs.train_demo.classifier import train_classifier

        train_classifier(settings, folder, device=device, resume=resume)


if __name__ == "__main__":
    main()
