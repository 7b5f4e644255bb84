"""``overpaint edit``: the driver of a run. Plans, runs waves of shards on Ray, writes a summary."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

from jobs import exit_codes
from jobs.edit.devices import device_of, has_bfloat16
from jobs.edit.driver_memory import release_memory
from jobs.edit.edits_left import EditsLeft
from jobs.edit.graph import configure_context, edit_dataset
from jobs.edit.lost_nodes import LostNodes
from jobs.edit.lost_parts import run_missing
from jobs.edit.paths import check_stores, with_absolute_paths
from jobs.edit.planner import planned
from jobs.edit.progress import RunProgress
from jobs.edit.ray_start import RayStart
from jobs.edit.report import report_run
from jobs.edit.summary_tables import print_dry_run, print_summary
from jobs.edit.waves import SizedPlan, Waves
from jobs.edit.writable import before_the_start, check_writable
from jobs.logs import tell, use_format
from jobs.ray_environment import cluster_address
from jobs.supervise.journal import Journal
from jobs.supervise.main_thread import MainThread
from jobs.supervise.shutdown import GracefulStop, StopFlag
from jobs.supervise.starts import JournalWatch
from jobs.supervise.watchdog import Guard
from pipeline.config.config import Config
from pipeline.plan.cuts import apply_cuts
from pipeline.plan.first_look import first_look
from pipeline.plan.inputs import changed_inputs
from pipeline.plan.plan import Plan, make_plan
from pipeline.plan.run_folder import write_config, write_run_folder, write_summary
from pipeline.plan.summary import RunSummary, summarize
from pipeline.republish.refilter import complete_refilter
from pipeline.republish.retry_failed import publish_staged, reopen_failed
from pipeline.storage.layout import sweep

ONE_DRIVER = (
    "warning: this store has no conditional put, so only one driver at a time may run on this "
    "output"
)


def dry_run(config: Config) -> int:
    """Prints what a run would do, and computes nothing."""
    use_format(config.run.log_format)
    check_stores(config)
    plan = make_plan(config, device_of(config))
    check_writable(plan.output, _named(plan))
    _warn([*plan.left_out, *first_look(plan).lines])
    print_dry_run(plan)
    return exit_codes.OK


def edit(
    config: Config, *, verbose: bool = False, retry_failed: bool = False, keep_ray: bool = False
) -> tuple[int, Plan]:
    """Runs the job to its end.

    Args:
        config: the run.
        verbose: show Ray's messages.
        retry_failed: recompute failed rows of published shards, if that may help.
        keep_ray: stay connected for another run; the caller then calls ``ray.shutdown``.

    Returns:
        The exit code and the plan at the end. The code is 0 if every shard is published and its
        marker can be read, 3 if too many of the edits failed, 75 after SIGTERM or Ctrl-C (run
        again to resume), else 1.

    Raises:
        ConfigError: the run cannot start; nothing was computed.
        CannotGoOnError: a worker does not start, or no part can be stored; staged parts stay.
    """
    started = time.monotonic()
    use_format(config.run.log_format)
    check_stores(config)
    if cluster_address(config):
        config = with_absolute_paths(config)
    stopped = False
    num_edits = 0
    outcome = compilations = None
    with RayStart(config, verbose, keep=keep_ray) as ray_start:
        ray_start.connected_for_auto()
        plan, edits_per_byte = _checked(config, ray_start, retry_failed=retry_failed)
        if plan.work:
            ray_start.connected()
            sizes = planned(plan, measure=False, keep=True, edits_per_byte=edits_per_byte)
            write_config(sizes.plan)  # again, with the resolved sizes
            progress, stopped = _compute(sizes, release=keep_ray)
            num_edits, compilations = progress.counts.total(), progress.compilations
            outcome = sizes.expected.compared_with(progress.images_per_s_after_start)
            plan = sizes.plan.still_to_do()
    sweep(plan.output)
    summary = summarize(plan, time.monotonic() - started, num_edits, outcome, compilations)
    write_summary(plan.output, summary.to_tree())
    print_summary(plan, summary)
    if not stopped:
        report_run(plan, num_edits)
    if stopped and plan.work:
        message = f"interrupted with {len(plan.work)} shards to do; run the same command to resume"
        tell(message, level="warning", to=sys.stdout)
        return exit_codes.INTERRUPTED, plan
    return _exit_code(plan, summary), plan


def _checked(config: Config, ray_start: RayStart, *, retry_failed: bool) -> tuple[Plan, float]:
    """The plan of a run, whose output is ready for it; Ray starts meanwhile.

    Returns:
        The plan, and the edits for each byte of its first shard; 0: not known.

    Raises:
        ConfigError: the run cannot start.
    """
    device = device_of(config)
    plan = make_plan(config, device, bfloat16=has_bfloat16(config, device), on_work=ray_start.begin)
    check_writable(plan.output, _named(plan))
    look = first_look(plan)
    _warn([*plan.left_out, *look.lines, *changed_inputs(plan)])
    for line in plan.cuts.lines:
        tell(line)
    with before_the_start(_named(plan)):
        if not plan.output.conditional:  # tested once, before workers get their copies
            tell(ONE_DRIVER, level="warning")
        apply_cuts(plan.output, plan.cuts)
        write_run_folder(plan)
    _warn(complete_refilter(plan))
    if retry_failed:
        plan = _reopened(plan)
    return publish_staged(plan), look.edits_per_byte


def _exit_code(plan: Plan, summary: RunSummary) -> int:
    """Of a run that was not interrupted; says why it is not 0."""
    if plan.work or summary.unreadable:
        return exit_codes.INCOMPLETE
    allowed = plan.config.run.max_failed_share
    if summary.failed_share > allowed:
        message = (
            f"complete, but {summary.failed_share:.0%} of the edits failed, above "
            f"run.max_failed_share={allowed:g}: exit code {exit_codes.TOO_MANY_FAILED}"
        )
        tell(message, level="error")
        return exit_codes.TOO_MANY_FAILED
    return exit_codes.OK


def _named(plan: Plan) -> str:
    return f"output.path={plan.config.output.path!r}"


def _warn(lines: Iterable[str]) -> None:
    for line in lines:
        tell(f"warning: {line}", level="warning")


def _reopened(plan: Plan) -> Plan:
    """Reopens published shards with failed rows to recompute; returns the plan that has them."""
    reopened = reopen_failed(plan)
    _warn(reopened.problems)
    message = f"{len(reopened.shards)} published shards have failed edits to recompute"
    tell(message, to=sys.stdout)
    return reopened.plan


def _compute(sizes: SizedPlan, *, release: bool) -> tuple[RunProgress, bool]:
    """Runs all waves, then retries lost parts. Returns the progress, and whether it was stopped.

    Args:
        sizes: the plan of the run, as its first wave begins.
        release: restore the signal handlers at the end; else signals keep their graceful handling
            for the rest of the process.
    """
    configure_context()
    plan, run = sizes.plan, sizes.plan.config.run
    journal = Journal(run.max_start_retries)
    flag = StopFlag(journal)
    guard = Guard(journal, run.part_timeout_s, sizes.expected.silence_s, run.log_format)
    stop = GracefulStop(flag, run.grace_s)
    every_s = run.progress_every_s
    try:
        with (
            MainThread() as main_thread,
            JournalWatch(guard.journal, main_thread),
            RunProgress(plan.num_shards, len(plan.published), every_s, EditsLeft(plan)) as progress,
        ):
            waves = Waves(sizes, progress)
            while not stop.requested and (wave := waves.next()):
                with LostNodes(waves.sizes, progress, main_thread) as lost_nodes:
                    progress.follow(edit_dataset(waves.sizes.plan, wave, guard, flag))
                release_memory()
                if lost_nodes.stuck:
                    waves.repeat(wave)
            if not stop.requested:
                run_missing(plan, progress, guard, flag)
            progress.compilations = journal.compilations()
    finally:
        if release:
            stop.release()
    return progress, stop.requested
