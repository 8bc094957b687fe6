"""Tables over tasks: the common scale, what is pooled, ranks with their caution; the references head and full."""

import numpy as np
import pytest

from analysis.build import analyse, build
from analysis.figures.plan import plan_figures
from analysis.load import load
from analysis.overall import build_overall
from analysis.render.markdown import markdown
from analysis.report.methods import methods_paragraph
from tensloradist.metrics import METRICS, Metric

RNG = np.random.default_rng(3)
ROWS = {"lora": 0.5, "att tucker": 0.6, "qkv tucker": 0.4}


def scores(tasks, rows, seeds=4):
    """Scores around head + level · (full - head), on tasks of different difficulty."""
    made = {}
    for i in range(tasks):
        head, span = 0.2 + 0.05 * i, 0.3 - 0.02 * i
        made[f"t{i}"] = {row: head + span * (level + RNG.normal(0, 0.02, seeds)) for row, level in rows.items()}
    return made


def test_one_task_has_no_table_over_tasks(loaded_of):
    assert build_overall(build(loaded_of(scores(1, ROWS), range(4)))) == []


@pytest.mark.parametrize(("seeds", "has"), [(9, False), (10, True)])
def test_intervals_over_tasks_need_the_seeds_of_a_bootstrap(loaded_of, seeds, has):
    analysis = analyse(loaded_of(scores(2, ROWS, seeds), range(seeds)))
    (overall,) = analysis.overall
    estimates = [e for row in overall.rows for e in (row.iqm, row.improvement) if e]
    assert len(estimates) == 5 and all((estimate.interval is not None) == has for estimate in estimates)
    reason = "No intervals over tasks: bootstrap intervals are too narrow with fewer than 10 seeds per task."
    assert any(note.startswith(reason) for note in overall.notes) != has
    text = methods_paragraph(analysis)
    assert ("stratified bootstrap" in text) == has and ("without intervals" in text) != has


def test_a_row_with_fewer_seeds_is_named_as_lacking_an_interval(loaded_of):
    loaded = loaded_of(scores(2, ROWS, 10), range(10))
    loaded.frame = loaded.frame[(loaded.frame["row"] != "att tucker") | (loaded.frame["seed"] < 4)]
    (overall,) = analyse(loaded).overall
    rows = {row.name: row for row in overall.rows}
    assert rows["qkv tucker"].improvement.interval and not rows["att tucker"].improvement.interval
    assert any(note.startswith("No intervals over tasks for att tucker:") for note in overall.notes)


def test_with_head_and_full_scores_are_on_the_common_scale(loaded_of):
    (overall,) = build_overall(build(loaded_of(scores(3, {**ROWS, "head": 0.0, "full": 1.0}), range(4))))
    rows = {row.name: row for row in overall.rows}
    assert list(rows) == ["lora", "att tucker", "qkv tucker"], "references are not compared"
    for name, level in ROWS.items():
        assert rows[name].normalised and rows[name].iqm.value == pytest.approx(level, abs=0.05)
    assert rows["att tucker"].improvement.value > 0.95 and rows["qkv tucker"].improvement.value < 0.05
    assert rows["lora"].improvement is None and overall.ranks is None
    assert any("No mean ranks: they need 5 data sets" in note for note in overall.notes)


def test_without_them_scores_are_raw_and_metrics_are_not_mixed(loaded_of):
    loaded = loaded_of(scores(2, ROWS), range(4))
    (overall,) = build_overall(build(loaded))
    assert not overall.rows[0].normalised and overall.rows[0].iqm is not None
    assert any("no head and no full" in note for note in overall.notes)
    loaded.frame.loc[loaded.frame["task"] == "t1", "metric"] = "matthews"
    (overall,) = build_overall(build(loaded))
    assert all(row.iqm is None for row in overall.rows) and overall.rows[1].improvement is not None
    assert any("accuracy, matthews" in note and "not pooled" in note for note in overall.notes)


def test_metrics_of_one_pool_are_averaged_and_a_plugins_metric_is_shown_by_its_name(loaded_of, monkeypatch):
    loaded = loaded_of(scores(2, ROWS), range(4))
    for task, name in (("t0", "top1"), ("t1", "top5")):
        loaded.frame.loc[loaded.frame["task"] == task, "metric"] = name
    assert all(row.iqm is None for row in analyse(loaded).overall[0].rows), "not known to be of one pool"
    for name in ("top1", "top5"):
        monkeypatch.setitem(METRICS, name, Metric(name=name, compute=lambda *_: 0.0, pool="share of examples"))
    analysis = analyse(loaded)
    assert all(row.iqm is not None for row in analysis.overall[0].rows)
    assert "t0 (top1)" in markdown(analysis) and "t1 (top5)" in markdown(analysis)
    assert {drawing.data.metric for drawing in plan_figures(analysis).drawings if drawing.kind == "parameters"} == {
        "top1",
        "top5",
    }


@pytest.mark.parametrize(("range_", "hardly"), [((0.0, 1.0), True), ((0.0, 100.0), False)])
def test_what_scores_can_differ_by_is_the_range_of_their_metric(folder, monkeypatch, range_, hardly):
    monkeypatch.setitem(METRICS, "accuracy", Metric(name="accuracy", compute=lambda *_: 0.0, range=range_))
    for row, values in {"lora": (0.70, 0.80), "att tucker": (0.60, 0.90)}.items():
        for seed, value in enumerate(values):
            folder.add(row, seed, value)
    folder.write()
    (note,) = [note for note in analyse(load("s", folder.root)).blocks[0].notes if "of repetitions" in note]
    assert ("would detect almost no difference" in note) == hardly


def test_full_below_head_is_no_scale(loaded_of):
    (overall,) = build_overall(build(loaded_of(scores(2, {**ROWS, "head": 0.9, "full": 0.1}), range(4))))
    assert not overall.rows[0].normalised and any("does not beat head-only" in note for note in overall.notes)


def test_ranks_from_five_data_sets_on_count_each_once(loaded_of):
    loaded = loaded_of(scores(6, ROWS), range(4))
    loaded.frame.loc[loaded.frame["task"] == "t5", "data_set"] = "data of t4"
    (overall,) = build_overall(build(loaded))
    assert overall.ranks.blocks == 5 and overall.ranks.names[0] == "att tucker"
    assert {row.name: row.mean_rank for row in overall.rows} == pytest.approx(
        {"lora": 2, "att tucker": 1, "qkv tucker": 3}
    )
    loaded.frame.loc[loaded.frame["task"] == "t3", "data_set"] = "data of t4"
    assert build_overall(build(loaded))[0].ranks is None


def test_an_incomplete_method_is_left_out_and_said(loaded_of):
    loaded = loaded_of(scores(2, ROWS), range(4))
    loaded.frame.loc[(loaded.frame["row"] == "att tucker") & (loaded.frame["seed"] == 0), ["state", "score"]] = [
        "failed",
        np.nan,
    ]
    (overall,) = build_overall(build(loaded))
    assert "att tucker" not in [row.name for row in overall.rows]
    assert any("Left out" in note and "att tucker" in note for note in overall.notes)


def test_references_are_shown_and_neither_bold_nor_tested(loaded_of):
    (block,) = build(loaded_of(scores(1, {**ROWS, "head": 0.0, "full": 1.0}), range(4)))
    assert [row.name for row in block.rows][:3] == ["head", "full", "lora"]
    full = block.row("full").cells["t0"]
    assert not full.best and full.difference.effect > 0.1 and full.difference.p_holm is None
    assert (
        block.row("att tucker").cells["t0"].best and block.row("att tucker").cells["t0"].difference.p_holm is not None
    )


def test_a_method_missing_in_one_condition_or_task_is_said(folder):
    for task in ("dtd", "cub"):
        for seed in range(2):
            folder.add("lora", seed, 0.5, task=task, conditions=("isorank r=4", "isoparameter r=4"))
            if task == "dtd":
                folder.add("att tucker", seed, 0.6)
    folder.write()
    first, second = analyse(load("s", folder.root)).blocks
    assert (
        "att tucker: not planned on cub." in first.notes
        and "att tucker: not planned under this condition." in second.notes
    )
    gap = first.row("att tucker").cells["cub"]
    assert gap.planned == 0 and not gap.is_complete and gap.mean is None and not gap.best


def test_undefined_scores_are_counted_and_not_averaged(loaded_of):
    loaded = loaded_of(scores(1, ROWS), range(4))
    loaded.frame.loc[(loaded.frame["row"] == "att tucker") & (loaded.frame["seed"] == 0), "score"] = np.nan
    (block,) = build(loaded)
    cell = block.row("att tucker").cells["t0"]
    assert cell.other == {"undefined score": 1} and len(cell.scores) == 3 and not cell.is_complete and not cell.best
    assert cell.difference.n == 3


def test_times_of_mixed_hardware_or_shared_gpus_are_refused(loaded_of):
    loaded = loaded_of(scores(1, ROWS), range(4))
    assert build(loaded)[0].no_times is None
    loaded.frame.loc[0, "hardware"] = "other"
    assert "different hardware" in build(loaded)[0].no_times
    loaded = loaded_of(scores(1, ROWS), range(4))
    loaded.frame["workers_per_gpu"] = 2
    assert "shared a GPU" in build(loaded)[0].no_times


def test_waiting_for_data_is_said_where_it_takes_much_of_the_steps_time(loaded_of):
    loaded = loaded_of(scores(1, ROWS), range(4))
    loaded.frame["data_wait_share"] = 0.02
    assert not any("waiting for data" in note for note in build(loaded)[0].notes)
    loaded.frame.loc[0, "data_wait_share"] = 0.34
    assert any("spent up to 34% of the step time waiting for data" in note for note in build(loaded)[0].notes)


def test_different_grids_are_said_to_be_unfair(folder):
    for seed in range(2):
        for rate in (1e-3, 1e-2, 1e-1):
            folder.add("lora", seed, 0.5, rate=rate)
        folder.add("att tucker", seed, 0.6, rate=1e-3)
    folder.write()
    assert any("different grids" in note for note in analyse(load("s", folder.root)).blocks[0].notes)


def test_the_power_note_names_a_difference_that_could_have_been_found(loaded_of):
    (block,) = build(loaded_of(scores(1, ROWS), range(4)))
    assert any("points in 80 % of repetitions" in note for note in block.notes)


def test_a_report_is_the_same_to_the_bit(loaded_of):
    loaded = loaded_of(scores(6, {**ROWS, "head": 0.0, "full": 1.0}, seeds=10), range(10))
    first, second = analyse(loaded), analyse(loaded)
    assert (first.blocks, first.overall) == (second.blocks, second.overall)
