"""Lost nodes: a wave whose pools do not fit the cluster any more is not waited for without end.

Ray starts the actors of a lost node on the others, where there is room. Where other pools fill
them, a pool may be left without an actor, and then nothing moves until a node comes back.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType

from jobs.edit.devices import cluster_nodes
from jobs.edit.progress import RunProgress, duration
from jobs.edit.waves import SizedPlan, resized
from jobs.logs import tell
from jobs.supervise.main_thread import MainThread

POLL_S = 5.0


class StuckWaveError(RuntimeError):
    """No part of the wave was done for long, and other pools would fit the nodes that are there."""


class LostNodes:
    """A context manager around a wave, which it ends if nodes were lost and no part is done.

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
        self.main_thread.forget()
        self.stuck = isinstance(error, StuckWaveError)
        return self.stuck

    def _poll(self) -> None:
        wait_s = patience_s(self.sizes)
        changed_at: float | None = None
        while not self._over.wait(min(POLL_S, wait_s / 2)):
            if not self._others_would_fit():
                changed_at = None
                continue
            changed_at = changed_at or time.monotonic()
            if time.monotonic() - max(changed_at, self.progress.last_part_at) >= wait_s:
                tell(
                    f"no part was done for {duration(wait_s)}, and the cluster has other nodes "
                    "than when these pools began: beginning anew with what is there",
                    level="warning",
                )
                self.main_thread.interrupt(StuckWaveError())
                return

    def _others_would_fit(self) -> bool:
        """Whether the nodes that are there would be given pools of other sizes."""
        now = resized(self.sizes, cluster_nodes(), self.progress.left.estimate())
        return now.expected.sizes != self.sizes.expected.sizes


def patience_s(sizes: SizedPlan) -> float:
    """How long a wave may be without a part: as long as nodes may take to come, and as a hang."""
    run = sizes.asked.config.run
    return max(run.cluster_wait_s, run.part_timeout_s or sizes.expected.silence_s)
