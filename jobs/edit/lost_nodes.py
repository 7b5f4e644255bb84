"""Lost nodes: a wave that cannot go on without them is not waited for without end.

Ray starts the actors of a lost node on the others, where there is room. Two things keep it from
doing so. Where other pools fill the nodes that are left, a pool may be left without an actor. And
Ray Data 2.60 frees an actor that is not needed any more by dropping its handle, which may be part
of a cycle of references: then it keeps its place until Python collects garbage, which a driver that
waits does not do. Of 25 runs that lost one of two nodes, one stood still at its end for that.
"""

from __future__ import annotations

import gc
import threading
import time
from types import TracebackType

from jobs.edit.devices import cluster_nodes
from jobs.edit.progress import RunProgress, duration
from jobs.edit.waves import SizedPlan, resized
from jobs.logs import tell
from jobs.supervise.main_thread import MainThread

POLL_S = 5.0
# After so long without a part the driver collects garbage, and again each time that doubles: it
# takes up to a second where a run has a million shards.
COLLECT_S = 10.0


class StuckWaveError(RuntimeError):
    """No part of the wave was done for long, and other pools would fit the nodes that are there."""


class LostNodes:
    """A context manager around a wave in which no part may be done, since nodes were lost.

    It collects garbage, and ends the wave if pools of other sizes would fit.

    Attributes:
        stuck: whether it has ended the wave; set at the end of the block.
    """

    def __init__(self, sizes: SizedPlan, progress: RunProgress, main_thread: MainThread) -> None:
        """
        Args:
            sizes: of the wave.
            progress: of the run.
            main_thread: of this process, which follows the wave.
        """
        self.sizes, self.progress, self.main_thread = sizes, progress, main_thread
        self.stuck = False
        self._nodes, self._would_fit = sorted(sizes.nodes), False  # as last seen; planned for once
        self._error = StuckWaveError()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="overpaint-nodes", daemon=True)

    def __enter__(self) -> LostNodes:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._over.set()
        self._thread.join()
        self.main_thread.forget(self._error)
        self.stuck = error is self._error
        return self.stuck

    def _poll(self) -> None:
        wait_s = patience_s(self.sizes)
        began_at, changed_at, collect_s = time.monotonic(), None, COLLECT_S
        while not self._over.wait(min(POLL_S, wait_s / 2)):
            now, last_at = time.monotonic(), max(began_at, self.progress.last_part_at)
            if now - last_at >= collect_s:
                gc.collect()
                collect_s *= 2
            elif now - last_at < COLLECT_S:
                collect_s = COLLECT_S
            if not self._others_would_fit():
                changed_at = None
                continue
            changed_at = changed_at or now
            if now - max(changed_at, last_at) >= wait_s:
                tell(
                    f"no part was done for {duration(wait_s)}, and the cluster has other nodes "
                    "than when these pools began: beginning anew with what is there",
                    level="warning",
                )
                self.main_thread.interrupt(self._error)
                return

    def _others_would_fit(self) -> bool:
        """Whether the nodes that are there would be given pools of other sizes."""
        nodes = sorted(cluster_nodes())
        if nodes != self._nodes:
            now = resized(self.sizes, nodes, self.progress.left.estimate())
            self._nodes, self._would_fit = nodes, now.expected.sizes != self.sizes.expected.sizes
        return self._would_fit


def patience_s(sizes: SizedPlan) -> float:
    """How long a wave may be without a part: as long as nodes may take to come, and as a hang."""
    run = sizes.asked.config.run
    return max(run.cluster_wait_s, run.part_timeout_s or sizes.expected.silence_s)
