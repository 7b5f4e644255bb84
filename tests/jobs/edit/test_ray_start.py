"""Ray starts beside the plan, and ends with whatever ends the run. No Ray is started here."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from jobs import exit_codes
from jobs.cli import main
from jobs.edit import driver, planner, ray_start
from jobs.edit.ray_start import RayStart
from pipeline.config.config import Config
from pipeline.config.load import ConfigError, load_config
from pipeline.plan import plan as plans
from pipeline.plan.plan import make_plan
from pipeline.plan.run_folder import write_run_folder
from tests.fake_job import MODEL, fake_plan, run_fake
from tests.samples import raw_sample, write_shard


class FakeRay:
    """Ray's start and end, as the driver sees them. A start takes as long as it is held."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.held = threading.Event(), threading.Event()
        self.held.set()
        self.error: Exception | None = None
        self.is_up = False
        self.calls: list[str] = []
        monkeypatch.setattr(ray_start, "connect", self._connect)
        monkeypatch.setattr(ray_start, "disconnect", self._disconnect)
        monkeypatch.setattr("ray.is_initialized", lambda: self.is_up)

    def _connect(self, config: Config, verbose: bool) -> None:
        self.calls.append("connect")
        self.begun.set()
        assert self.held.wait(20)
        if self.error is not None:
            raise self.error
        self.is_up = True

    def _disconnect(self) -> None:
        assert self.is_up
        self.calls.append("disconnect")
        self.is_up = False


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return FakeRay(monkeypatch)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A run of one shard with the bundled model."""
    write_shard(tmp_path / "in/0.tar", [raw_sample("a")])
    places = [f"input.shards={tmp_path}/in/*.tar", f"output.path={tmp_path}/out"]
    return load_config("demo", places)


def starting_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "overpaint-ray"]


def probe_instead(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Does something in place of probing the model, in the middle of the plan."""

    def probed(*arguments: object) -> None:
        act()
        raise OSError("model.path='bundled': gone")

    monkeypatch.setattr(plans, "_probed", probed)


def test_the_plan_is_made_while_ray_starts(
    fake_ray: FakeRay, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray is held here until the whole plan is there; the run then waits for it."""
    fake_ray.held.clear()
    seen: list[bool] = []

    def planned(*arguments: object, **options: object) -> None:
        seen.append(fake_ray.is_up)
        raise ConfigError("as far as this test goes")

    def published(plan: plans.Plan) -> plans.Plan:
        assert fake_ray.begun.wait(20)
        seen.append(fake_ray.is_up)
        fake_ray.held.set()
        return plan

    monkeypatch.setattr(driver, "publish_staged", published)
    monkeypatch.setattr(driver, "planned", planned)
    with pytest.raises(ConfigError, match="as far as"):
        driver.edit(config)
    assert seen == [False, True]
    assert fake_ray.calls == ["connect", "disconnect"]


def test_an_error_of_the_plan_has_its_words_and_ends_ray(
    fake_ray: FakeRay,
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ray is still starting when the model is found wrong."""
    fake_ray.held.clear()
    probe_instead(monkeypatch, lambda: threading.Timer(0.2, fake_ray.held.set).start())
    places = [f"input.shards={tmp_path}/in/*.tar", f"output.path={tmp_path}/out"]
    for command in ("edit", "plan"):
        assert main([command, "demo", *places]) == exit_codes.BAD_CONFIG
        assert capsys.readouterr().err == "overpaint: model.path='bundled': gone\n"
    assert fake_ray.calls == ["connect", "disconnect"] * 2
    assert not (tmp_path / "out").exists()


def test_an_error_of_rays_start_comes_out_when_the_plan_is_made(
    fake_ray: FakeRay, config: Config, tmp_path: Path
) -> None:
    """As it did in the main thread; nothing is left to end."""
    fake_ray.error = RuntimeError("the raylet did not start")
    with pytest.raises(RuntimeError, match="the raylet did not start"):
        driver.edit(config)
    assert fake_ray.calls == ["connect"]
    assert (tmp_path / "out/_run/run.json").exists(), "the plan was right"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_plan_and_ray(
    fake_ray: FakeRay,
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    """The main thread gets it at once, and waits for Ray only to shut it down."""
    fake_ray.held.clear()

    def signalled() -> None:
        threading.Timer(0.2, fake_ray.held.set).start()
        os.kill(os.getpid(), number)
        time.sleep(20)

    probe_instead(monkeypatch, signalled)
    places = [f"input.shards={tmp_path}/in/*.tar", f"output.path={tmp_path}/out"]
    assert main(["edit", "demo", *places]) == exit_codes.INTERRUPTED
    said = capsys.readouterr().err
    assert said == f"{number.name}: stopped; run the same command to resume\n"
    assert fake_ray.calls == ["connect", "disconnect"]


def test_the_thread_lives_as_long_as_ray(
    fake_ray: FakeRay, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's processes are killed when the thread that started them ends."""
    with RayStart(config, False) as start:
        start.begin()
        start.begin()
        start.connected()
        (thread,) = starting_threads()
    thread.join(20)
    assert starting_threads() == []
    with RayStart(config, False, keep=True) as start:
        start.begin()
        start.connected()
    (thread,) = starting_threads()
    assert fake_ray.calls == ["connect", "disconnect", "connect"]
    with RayStart(config, False) as another:
        another.connected()
    assert fake_ray.calls == ["connect", "disconnect", "connect", "disconnect"]
    start._over.set()
    thread.join(20)


def test_a_cluster_is_connected_to_after_the_plan(
    fake_ray: FakeRay, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its nodes may take minutes to join, and there is no start to save."""
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with RayStart(config, False) as start:
        start.begin()
        assert fake_ray.calls == []
        assert starting_threads() == []
        start.connected()
    assert fake_ray.calls == ["connect", "disconnect"]


def test_ray_does_not_start_for_a_run_that_is_done(tmp_path: Path) -> None:
    """``on_work`` is called for a shard that is not published, and for no other."""
    write_shard(tmp_path / "in/0.tar", [raw_sample("a")])
    plan = fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/out")
    calls: list[int] = []
    with mock.patch("pipeline.plan.plan.probe_model", return_value=MODEL):
        make_plan(plan.config, "cpu", on_work=lambda: calls.append(1))
        assert calls == [1]
        write_run_folder(plan)
        run_fake(plan)
        make_plan(plan.config, "cpu", on_work=lambda: calls.append(2))
    assert calls == [1]


def test_plan_starts_ray_beside_it_too(fake_ray: FakeRay, config: Config) -> None:
    """``overpaint plan`` ends it, also where the sizing fails."""

    def planned(*arguments: object, **options: object) -> None:
        assert fake_ray.is_up
        raise ConfigError("stages: no room")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "planned", planned)
        with pytest.raises(ConfigError, match="no room"):
            planner.print_plan(config)
    assert fake_ray.calls == ["connect", "disconnect"]
