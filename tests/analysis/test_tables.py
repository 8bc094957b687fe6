"""From files to tables: numbers, honest cells, guards, and every bad input."""

import random
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.build import analyse, build
from analysis.load import load
from analysis.render.export import tidy_csv
from analysis.render.markdown import markdown
from analysis.render.text import difference, score
from analysis.report.opening import opening
from tensloradist.errors import UserError


def analysis_of(folder, **options):
    folder.write(**options)
    return analyse(load("s", folder.root))


def blocks_of(folder, **options):
    return analysis_of(folder, **options).blocks


def cell_of(blocks, row, task="dtd", block=0):
    return next(r for r in blocks[block].rows if r.name == row).cells[task]


def three_seeds(folder, **others):
    for row, values in {"lora": (0.80, 0.82, 0.81), "att tucker": (0.83, 0.84, 0.86), **others}.items():
        for seed, value in enumerate(values):
            folder.add(row, seed, value)


def test_means_intervals_and_paired_differences(folder):
    three_seeds(folder)
    blocks = blocks_of(folder)
    cell = cell_of(blocks, "att tucker")
    assert score(cell) == "84.3 ± 3.8"
    assert difference(cell) == "+3.3 [−0.5, 7.1]"
    assert cell.difference.p == 0.25 and cell.best and not cell_of(blocks, "lora").best
    assert any("3 seeds are too few for a corrected test over 1 row, which needs 6" in n for n in blocks[0].notes)


def test_six_equal_directions_are_significant(folder):
    for seed in range(6):
        folder.add("lora", seed, 0.5 + 0.01 * seed)
        folder.add("att tucker", seed, 0.6 + 0.011 * seed)
    blocks = blocks_of(folder)
    assert difference(cell_of(blocks, "att tucker")).endswith("*")
    assert any("different from LoRA at 5 %" in n and "att tucker" in n for n in blocks[0].notes)


def test_one_run_serves_two_conditions(folder):
    both = ("isorank r=4", "isoparameter r=4")
    for seed in (0, 1):
        folder.add("lora", seed, 0.8, conditions=both)
    blocks = blocks_of(folder)
    assert [b.condition.name for b in blocks] == list(both)
    assert score(cell_of(blocks, "lora", block=1)) == "80.0 ± 0.0"


def test_the_order_of_runs_changes_nothing(folder):
    three_seeds(folder, **{"qkv_depth tucker": (0.7, 0.9, 0.8)})
    texts = {tidy_csv(analysis_of(folder, shuffle=random.Random(seed).shuffle)) for seed in range(4)}
    assert len(texts) == 1
    assert [row.name for row in blocks_of(folder)[0].rows] == ["lora", "att tucker", "qkv_depth tucker"]


def test_the_rate_is_chosen_on_validation_over_common_seeds(folder):
    for seed, (low, high) in enumerate([(0.9, 0.7), (0.9, 0.7), (0.9, None)]):
        folder.add("lora", seed, score=0.1, validation=low, rate=1e-3)
        if high is None:
            folder.add("lora", seed, rate=1e-2, state="missing")
        else:
            folder.add("lora", seed, score=0.99, validation=high, rate=1e-2)
    blocks = blocks_of(folder)
    cell = cell_of(blocks, "lora")
    assert cell.mean == pytest.approx(0.1), "test scores must not decide"
    assert cell.choice.common_seeds == 2 and cell.choice.at_edge and cell.planned == 3
    assert any("learning_rate 0.001 (at the grid's edge)" in n for n in blocks[0].notes)


def test_a_rate_in_the_middle_is_not_at_the_edge_and_divergence_loses(folder):
    for seed in (0, 1):
        folder.add("lora", seed, 0.5, rate=1e-4)
        folder.add("lora", seed, 0.7, rate=1e-3)
        folder.add("lora", seed, rate=1e-2, state="diverged")
    cell = cell_of(blocks_of(folder), "lora")
    assert cell.choice.chosen["learning_rate"] == 1e-3 and not cell.choice.at_edge


def grid_with_divergences(folder, diverged):
    """Three rates of ten seeds; `diverged`: rate -> how many of its seeds diverge."""
    for rate, validation in ((1e-4, 0.5), (1e-3, 0.9), (1e-2, 0.8)):
        for seed in range(10):
            state = "diverged" if seed < diverged[rate] else "finished"
            folder.add("lora", seed, 0.3, validation=validation, rate=rate, state=state)


def test_one_divergence_in_every_rate_vetoes_none_of_them(folder):
    grid_with_divergences(folder, {1e-4: 1, 1e-3: 1, 1e-2: 1})
    blocks = blocks_of(folder)
    choice = cell_of(blocks, "lora").choice
    assert choice.chosen["learning_rate"] == 1e-3 and choice.setting.validation == pytest.approx(0.9)
    assert choice.common_seeds == 10 and choice.setting.without_score == 1 and not choice.at_edge
    (note,) = [note for note in blocks[0].notes if "diverged" in note]
    assert "lora: learning_rate 0.001 was chosen although 1 of its 10 runs diverged" in note


def test_the_fewest_divergences_come_before_the_highest_mean(folder):
    grid_with_divergences(folder, {1e-4: 2, 1e-3: 3, 1e-2: 2})
    assert cell_of(blocks_of(folder), "lora").choice.chosen["learning_rate"] == 1e-2


def test_where_every_run_diverged_nothing_is_said_to_be_chosen(folder):
    grid_with_divergences(folder, {1e-4: 10, 1e-3: 10, 1e-2: 10})
    analysis = analysis_of(folder)
    (block,) = analysis.blocks
    choice = block.row("lora").cells["dtd"].choice
    assert choice.chosen["learning_rate"] == 1e-4 and choice.common_seeds == 10 and not choice.at_edge
    assert any("chosen because no run of any setting has a validation score, so" in note for note in block.notes)
    assert not any("by mean validation score" in note for note in block.notes)
    assert choice.describe() == "learning_rate 0.0001 (the grid's first, not chosen)"


def test_what_is_incomplete_is_counted_and_never_bold(folder):
    three_seeds(folder)
    folder.add("qkv_depth tucker", 0, 0.99)
    folder.add("qkv_depth tucker", 1, state="failed")
    folder.add("qkv_depth tucker", 2, state="diverged")
    blocks = blocks_of(folder)
    cell = cell_of(blocks, "qkv_depth tucker")
    assert score(cell) == "99.0 (1/3 seeds, 1 diverged, 1 failed)" and not cell.best
    assert cell_of(blocks, "att tucker").best
    assert any("1 run failed: bug: it broke" in n for n in blocks[0].notes)


def test_differing_fingerprints_are_not_paired(folder):
    three_seeds(folder)
    for seed in range(3):
        folder.add("qkv_depth tucker", seed, 0.9, fingerprints={"head": "other"})
    blocks = blocks_of(folder)
    assert difference(cell_of(blocks, "qkv_depth tucker")) == "not paired"
    assert any("the runs differ in head" in n for n in blocks[0].notes)
    assert difference(cell_of(blocks, "att tucker")).startswith("+3.3")


def test_beyond_the_budget_is_shown_and_not_ranked(folder):
    for seed in range(2):
        folder.add("lora", seed, 0.5, conditions=("isoparameter r=4",))
        folder.add("att tucker", seed, 0.9, conditions=("isoparameter r=4",), ranks=7, residual=-0.038)
        folder.add("qkv_depth tucker", seed, 0.6, conditions=("isoparameter r=4",), ranks=9, residual=0.01)
    blocks = blocks_of(folder)
    assert not cell_of(blocks, "att tucker").best and cell_of(blocks, "qkv_depth tucker").best
    assert any("-3.8 % off its budget" in n for n in blocks[0].notes)


def test_an_isorank_row_of_other_ranks_is_refused(folder):
    three_seeds(folder)
    folder.add("qkv_depth tucker", 0, 0.9, ranks=5)
    blocks = blocks_of(folder)
    row = blocks[0].rows[-1]
    assert row.refused and not row.cells and any("not all 4" in n for n in blocks[0].notes)
    assert "refused" in markdown(analysis_of(folder))


def test_a_mean_of_zero_is_a_mean(folder):
    """A correlation such as MCC may be 0, and below."""
    for seed, below in enumerate((-0.02, -0.03, -0.01)):
        folder.add("att tucker", seed, 0.0)
        folder.add("qkv tucker", seed, below)
    blocks = blocks_of(folder)
    assert cell_of(blocks, "att tucker").best and not cell_of(blocks, "qkv tucker").best
    assert "att has the highest mean, 0.0 ± 0.0" in opening(analysis_of(folder))[0]


def test_equal_means_of_zero_are_both_best(folder):
    for seed in range(2):
        folder.add("att tucker", seed, 0.0)
        folder.add("qkv tucker", seed, 0.0)
    assert all(row.cells["dtd"].best for row in blocks_of(folder)[0].rows)


def test_two_runs_of_one_seed_are_never_one_number(folder):
    three_seeds(folder)
    folder.add("att tucker", 1, 0.4, ranks=5, conditions=("isorank r=4",))
    with pytest.raises(UserError, match=r"'att tucker, dtd, isorank r=4, deit' has two runs of seed 1, att.* and att"):
        blocks_of(folder)


def test_no_lora_no_differences(folder):
    folder.add("att tucker", 0, 0.5)
    blocks = blocks_of(folder)
    assert any("no LoRA in this sweep" in n for n in blocks[0].notes)
    assert score(cell_of(blocks, "att tucker")) == "50.0 (1/1 seeds)"


def test_equal_seeds_are_said(folder):
    for seed in range(3):
        folder.add("lora", seed, 0.5)
    assert any("all seeds gave the same score" in n for n in blocks_of(folder)[0].notes)


def test_nothing_finished_yet(folder):
    folder.add("lora", 0, state="missing")
    folder.add("att tucker", 0, state="failed", cause="interrupted")
    blocks = blocks_of(folder)
    assert score(cell_of(blocks, "lora")) == "— (0/1 seeds, 1 missing)"
    assert score(cell_of(blocks, "att tucker")) == "— (0/1 seeds, 1 missing)"


def test_mixed_hardware_warns(folder):
    folder.add("lora", 0, 0.5, hardware="one")
    folder.add("att tucker", 0, 0.5, hardware="another")
    assert any("different hardware" in n and "another; one" in n for n in blocks_of(folder)[0].notes)


@pytest.mark.parametrize(
    ("what", "one", "other"),
    [
        ("settings of the environment", {"environment": {}}, {"environment": {"NVIDIA_TF32_OVERRIDE": "1"}}),
        ("plugin code", {"code": {"plugins": {"own": "a1"}}}, {"code": {"plugins": {"own": "b2"}}}),
        ("numbers of CPU threads", {"threads": 1}, {"threads": 8}),
    ],
)
def test_mixed_settings_and_code_warn_where_they_are_on_record(folder, what, one, other):
    folder.add("lora", 0, 0.5, provenance=one)
    folder.add("att tucker", 0, 0.5)  # from before it was recorded
    assert not any("Warning" in note for note in blocks_of(folder)[0].notes)
    folder.add("qkv tucker", 0, 0.5, provenance=other)
    (block,) = blocks_of(folder)
    assert any(f"compares runs with different {what}" in note for note in block.notes), block.notes
    assert f"different {what}" in block.no_times


def test_sweeps_with_different_plugins_are_no_mixture(folder):
    folder.add("lora", 0, 0.5, provenance={"code": {"plugins": {"own": "a1"}}})
    folder.add("att tucker", 0, 0.5, provenance={"code": {"plugins": {"own": "a1", "another": "c3"}}})
    assert not any("Warning" in note for note in blocks_of(folder)[0].notes)


def test_broken_results_are_listed(folder):
    three_seeds(folder)
    run = folder.add("qkv_depth tucker", 0, state="missing")
    run.path.mkdir(parents=True)
    run.result.write_text('{"schema_version": 99}')
    folder.write()
    loaded = load("s", folder.root)
    assert len(loaded.broken) == 1 and "schema_version 99" in loaded.broken[0]
    assert score(cell_of(build(loaded), "qkv_depth tucker")) == "— (0/1 seeds, 1 newer)"


def test_two_tasks_are_two_columns(folder):
    three_seeds(folder)
    for seed in range(3):
        folder.add("lora", seed, 0.4, task="cub")
    blocks = blocks_of(folder)
    assert blocks[0].tasks == ("dtd", "cub") or blocks[0].tasks == ("cub", "dtd")
    text = markdown(replace(analysis_of(folder), warnings=["a warning"]))
    assert "dtd (accuracy)" in text and "cub (accuracy)" in text and "> a warning" in text


def test_csv_has_all_numbers(folder, tmp_path):
    three_seeds(folder)
    (tmp_path / "t.csv").write_text(tidy_csv(analysis_of(folder)))
    frame = pd.read_csv(tmp_path / "t.csv").set_index("method")
    assert frame.loc["att tucker", "mean"] == pytest.approx(np.mean([0.83, 0.84, 0.86]), abs=1e-15)
    assert frame.loc["att tucker", "p_sign_flip"] == 0.25 and frame.loc["lora", "planned_seeds"] == 3


def test_unknown_sweeps_and_folders(folder, tmp_path):
    folder.write()
    with pytest.raises(UserError, match="Did you mean|shipped ones|Unknown sweep"):
        load("ss", folder.root)
    with pytest.raises(UserError, match="has not been launched"):
        load("demo", folder.root)
    (tmp_path / "x.yaml").write_text("a: 1")
    with pytest.raises(UserError, match="no `name:`"):
        load(str(tmp_path / "x.yaml"), folder.root)


def test_the_analysis_imports_no_torch(folder):
    three_seeds(folder)
    folder.write()
    code = (
        "import sys; from pathlib import Path; from analysis.load import load; from analysis.build import analyse; "
        "from analysis.render.markdown import markdown; from analysis.report.page import page; "
        "a = analyse(load('s', Path(sys.argv[1]))); print(markdown(a), page(a, [], [])); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(folder.root)], check=True, capture_output=True)


def test_many_runs_in_seconds(folder):
    for row in PARAMETERS_MANY:
        for seed in range(10):
            for rate in (1e-4, 1e-3):
                folder.add(row, seed, 0.5 + 0.01 * seed, rate=rate)
    folder.write()
    began = time.process_time()
    build(load("s", folder.root))
    assert time.process_time() - began < 5


PARAMETERS_MANY = ["lora", *(f"{g} tucker" for g in ("att", "qkv", "depth", "att_qkv", "att_depth", "qkv_depth"))]
