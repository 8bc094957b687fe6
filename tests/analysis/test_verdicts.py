"""What is established and what is not: diverged runs bar a verdict, one row with few seeds takes none from others."""

import numpy as np
import pytest

from analysis.build import analyse
from analysis.cli.showing import explanation_lines, show_comparisons
from analysis.comparison import compare_methods
from analysis.load import load
from analysis.render.export import tidy_csv
from analysis.render.latex import latex
from analysis.render.text import difference, score
from analysis.report.methods import methods_paragraph
from analysis.report.opening import opening
from analysis.report.page import page
from analysis.statistics.paired import paired_many
from analysis.statistics.permutation import holm
from analysis.verdicts import kind_of_test


def analysis_of(folder):
    folder.write()
    return analyse(load("s", folder.root))


def seeds_of(folder, row, number, mean, diverged=(), failed=(), **more):
    """Runs whose differences between rows are nearly constant, so that six of them are significant."""
    for seed in range(number):
        state = "diverged" if seed in diverged else "failed" if seed in failed else "finished"
        folder.add(row, seed, mean + 0.01 * seed + 0.0003 * (seed % 3) * (1 + len(row)), state=state, **more)


@pytest.fixture
def survivors(folder):
    """Of 14 seeds, four of `att` diverge and the others are far better than LoRA; `qkv` is better throughout."""
    seeds_of(folder, "lora", 14, 0.50)
    seeds_of(folder, "att tucker", 14, 0.55, diverged=(1, 4, 5, 9))
    seeds_of(folder, "qkv tucker", 14, 0.52)
    return analysis_of(folder)


def test_survivors_are_shown_and_not_tested(survivors):
    (block,) = survivors.blocks
    cell = block.row("att tucker").cells["dtd"]
    assert score(cell).endswith("(10/14 seeds, 4 diverged)") and not cell.best
    assert difference(cell).startswith("+") and difference(cell).endswith("]†")
    paired = cell.difference
    assert paired.n == 10 and paired.p is None and paired.p_holm is None and paired.untested == "4 of 14 seeds diverged"
    assert paired.equivalence.probability is None and paired.equivalence.undefined == "4 of 14 seeds diverged"
    notes = "\n".join(block.notes)
    assert "att tucker: 4 of 14 seeds diverged, so the difference covers only the other seeds and is not" in notes
    assert "different from LoRA at 5 % (exact sign-flip test, Holm's correction over 2 rows): qkv tucker." in notes


def test_survivors_count_in_the_family_that_holm_corrects_over(survivors):
    paired = survivors.blocks[0].row("qkv tucker").cells["dtd"].difference
    assert paired.family == 2 and paired.p_holm == holm([paired.p, 1.0])[0] == 2 * paired.p


def test_survivors_are_never_named_without_their_divergences(survivors):
    first, last = opening(survivors)
    assert "att differs from LoRA by +5" in first and " points (not tested: 4 of 14 seeds diverged), qkv by +2" in first
    assert "With 14 seeds, 1 of 1 difference to LoRA is established" in last and ": qkv (isorank r=4);" in last
    assert last.endswith("not tested because runs diverged: att (isorank r=4, 4 of 14 seeds diverged).")
    assert "1 of 2 differences is not tested because runs diverged" in methods_paragraph(survivors)


def test_survivors_are_marked_in_every_format(survivors):
    assert r"$\dagger$" in latex(survivors) and "† not tested because" in page(survivors, [], [])
    assert "not tested because 4 of 14 seeds diverged; this difference covers the other seeds only." in page(
        survivors, [], []
    )
    assert "4 of 14 seeds diverged" in tidy_csv(survivors)
    from analysis.address import parse
    from analysis.explanation import explain

    lines = "\n".join(explanation_lines(explain(survivors, parse("att, dtd", survivors.addresses()))))
    assert "points; not tested because 4 of 14 seeds diverged" in lines


def test_survivors_are_not_tested_by_compare(survivors, capsys):
    (found,) = compare_methods(survivors, "att tucker", "qkv tucker")
    assert found.difference.p is None and found.difference.untested == "4 of 14 seeds of att tucker diverged"
    show_comparisons("att tucker", "qkv tucker", [found])
    shown = capsys.readouterr().out
    assert "not tested" in shown and "4 of 14 seeds of att tucker diverged: not tested; the difference is" in shown


def test_divergences_of_lora_bar_every_verdict(folder):
    seeds_of(folder, "lora", 8, 0.50, diverged=(0,))
    seeds_of(folder, "att tucker", 8, 0.55)
    analysis = analysis_of(folder)
    notes = "\n".join(analysis.blocks[0].notes)
    assert "att tucker: 1 of 8 seeds of LoRA diverged, so" in notes and "different from LoRA" not in notes
    assert opening(analysis)[-1] == (
        "No difference to LoRA is tested, so none is established or ruled out (not tested because runs diverged: "
        "att (isorank r=4, 1 of 8 seeds of LoRA diverged))."
    )


def test_a_divergence_on_a_seed_that_the_other_has_not_bars_nothing(folder):
    seeds_of(folder, "lora", 8, 0.50, failed=(7,))
    seeds_of(folder, "att tucker", 8, 0.55, diverged=(7,))
    paired = analysis_of(folder).blocks[0].row("att tucker").cells["dtd"].difference
    assert paired.n == 7 and paired.untested is None and paired.p_holm is not None


def test_where_all_diverged_that_is_why_there_is_no_difference(folder):
    seeds_of(folder, "lora", 8, 0.50)
    seeds_of(folder, "att tucker", 8, 0.55, diverged=range(8))
    seeds_of(folder, "qkv tucker", 8, 0.55)
    (block,) = analysis_of(folder).blocks
    assert block.row("att tucker").cells["dtd"].no_difference == "8 of 8 seeds diverged"
    assert "dtd, att tucker: not compared with LoRA because 8 of 8 seeds diverged." in block.notes
    assert block.row("qkv tucker").cells["dtd"].difference.family == 2


def test_one_row_with_few_seeds_takes_nothing_from_the_others(folder):
    """Notes and opening speak from one split of the rows, and name those with too few seeds."""
    seeds_of(folder, "lora", 10, 0.50)
    rows = [f"{g} tucker" for g in ("att", "qkv", "depth", "att_qkv", "att_depth", "qkv_depth", "att_qkv_depth")]
    for row in rows:
        seeds_of(folder, row, 10, 0.55, failed=range(8) if row == rows[0] else ())
    analysis = analysis_of(folder)
    notes = "\n".join(analysis.blocks[0].notes)
    assert f"at 5 % (exact sign-flip test, Holm's correction over 7 rows): {', '.join(rows[1:])}." in notes
    assert "2 seeds are too few for a corrected test over 7 rows, which needs 9 (att tucker); the intervals" in notes
    assert "with 10 seeds and the observed spread" in notes and "with 2 seeds" not in notes
    last = opening(analysis)[-1]
    assert "With 2 to 10 seeds, 6 of 7 differences to LoRA are established" in last
    assert "1 has too few seeds for a corrected test: att (isorank r=4)" in last


def test_the_test_is_called_exact_only_where_it_is():
    def items(*lengths):
        rng = np.random.default_rng(0)
        return [("", paired) for paired in paired_many([rng.normal(size=n) for n in lengths])]

    assert kind_of_test(items(16, 3)) == "exact sign-flip test"
    assert kind_of_test(items(17)) == "Monte Carlo sign-flip test, 100,000 draws"
    assert kind_of_test(items(5, 20)) == (
        "exact sign-flip test, above 16 seeds Monte Carlo sign-flip test, 100,000 draws"
    )


def test_notes_above_sixteen_seeds_say_monte_carlo(folder):
    seeds_of(folder, "lora", 20, 0.50)
    seeds_of(folder, "att tucker", 20, 0.55)
    notes = "\n".join(analysis_of(folder).blocks[0].notes)
    assert "(Monte Carlo sign-flip test, 100,000 draws, Holm's correction over 1 row): att tucker." in notes
