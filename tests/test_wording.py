"""Sentences agree with their numbers, and settings that differ are shown so."""

import pytest
from synthetic import planned_run, spec_of

from analysis.model import Setting
from launch.monitor.status import RunStatus, _of_files
from launch.planning.labels import RunLabels
from tensloradist.wording import counted, exactly


def test_one_thing_is_singular():
    assert [counted(n, "run is", "runs are") for n in (0, 1, 2)] == ["0 runs are", "1 run is", "2 runs are"]
    assert [counted(n, "file") for n in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
    assert [counted(n, "process") for n in (1, 10_000)] == ["1 process", "10,000 processes"]
    one = RunStatus("r", "lora", "b", "t", "c", 0, "finished", duplicates=1, duplicates_differ=1)
    assert _of_files([one]) == [
        "1 duplicate result (the first published counts): r",
        "1 duplicate result differs from the published ones",
    ]


@pytest.mark.parametrize("values", [(0.001, 0.0010000001), (1000000, 1000001), (1 / 3, 0.333333)])
def test_settings_that_differ_are_shown_differently(values):
    assert len({exactly(value) for value in values}) == 2 and [float(exactly(value)) for value in values] == [*values]
    runs = [planned_run(str(value), spec_of(optimizer={"learning_rate": value})) for value in values]
    labels = RunLabels(runs)
    assert len({labels.label(run.run_id) for run in runs}) == 2
    assert len({Setting({"learning_rate": value}, None, 0).label for value in values}) == 2


def test_a_plain_setting_stays_short():
    assert [exactly(value) for value in (0.001, 3e-05, 10, 1e6, 0.5)] == ["0.001", "3e-05", "10", "1e+06", "0.5"]
