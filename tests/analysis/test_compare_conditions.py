"""One method between two conditions of a sweep, paired by seed: the numbers, the command, and its refusals."""

import json
import re
import shlex
import subprocess
import sys

import pytest

from analysis.address import parse_name
from analysis.build import analyse
from analysis.comparison import compare_conditions
from analysis.load import load
from tensloradist.errors import UserError
from tensloradist.results.schema import Condition

RANK, BUDGET, SPECTRUM = "isorank r=4", "isoparameter r=4", "isoparameter r=4 spectrum"


@pytest.fixture
def sweep(folder):
    """LoRA is one run in all conditions; `att` is better by 2 points with the ranks of its spectrum."""
    spectrum = {"kind": "isoparameter", "rank": 4, "strategy": "spectrum", "tolerance": 0.02}
    folder.conditions.append(Condition(name=SPECTRUM, **spectrum))
    for task in ("dtd", "cub"):
        for seed in range(8):
            folder.add("lora", seed, 0.5, task=task, conditions=(RANK, BUDGET, SPECTRUM))
            folder.add("att tucker", seed, 0.51 + 0.01 * seed, task=task, conditions=(BUDGET,), ranks=5)
            better = 0.53 + 0.0101 * seed
            state = "diverged" if task == "cub" and seed < 3 else "finished"
            folder.add("att tucker", seed, better, task=task, conditions=(SPECTRUM,), ranks=6, state=state)
    folder.add("qkv tucker", 0, 0.5, conditions=(RANK,))
    folder.write()
    return analyse(load("s", folder.root))


def test_one_method_is_compared_between_conditions_on_every_task(sweep):
    found = {one.task: one for one in compare_conditions(sweep, "att tucker", SPECTRUM, BUDGET)}
    paired = found["dtd"].difference
    assert paired.effect == pytest.approx(0.02 + 0.0001 * 3.5) and paired.n == 8 and paired.family == 2
    assert paired.p == 2 / 2**8 and paired.p_holm == 2 * paired.p and paired.seeds_needed == 7
    assert found["dtd"].condition is None and found["dtd"].means == pytest.approx((0.56535, 0.545))
    survivors = found["cub"].difference
    assert survivors.p is None and survivors.untested == f"3 of 8 seeds of {SPECTRUM} diverged"


def test_what_cannot_be_compared_says_why(sweep):
    whys = {one.task: one.why_not for one in compare_conditions(sweep, "lora", RANK, BUDGET)}
    assert set(whys.values()) == {"both conditions share the same runs"}
    whys = {one.task: one.why_not for one in compare_conditions(sweep, "qkv tucker", RANK, BUDGET)}
    assert whys == {
        "dtd": f"not planned under {BUDGET} or refused",
        "cub": f"not planned under {RANK} and {BUDGET} or refused",
    }


def test_conditions_by_their_first_words():
    names = [RANK, BUDGET, SPECTRUM, "isoparameter r=4 depth=1"]
    wanted = {"isorank": RANK, "isoparameter 4": BUDGET, "Isoparameter r=4 spectrum": SPECTRUM}
    assert {text: parse_name(text, "condition", names) for text in wanted} == wanted
    for text, says in (
        ("isoparameter", "'isoparameter' matches 3 conditions: isoparameter r=4, .* give the whole name"),
        ("isoparameter 8", "Unknown condition 'isoparameter 8'. .*Known: isorank r=4, isoparameter r=4, "),
    ):
        with pytest.raises(UserError, match=says):
            parse_name(text, "condition", names)


def compare(folder, *arguments):
    command = [sys.executable, "-m", "tensloradist.cli", "compare", *arguments, "--results", str(folder.root)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.usefixtures("sweep")
def test_the_command_shows_it_or_says_what_is_wrong(folder):
    shown = compare(folder, "att", "--between", "isoparameter 4 spectrum", "isoparameter 4")
    assert shown.returncode == 0, shown.stderr
    assert f"att tucker: {SPECTRUM} − {BUDGET}, in points, paired by seed" in shown.stdout
    assert "+2.0 [2.0, 2.1]" in shown.stdout and "0.0156" in shown.stdout
    assert f"cub, deit: 3 of 8 seeds of {SPECTRUM} diverged: not tested" in shown.stdout
    data = json.loads(compare(folder, "att", "--between", "isoparameter 4 spectrum", BUDGET, "--json").stdout)
    assert (data["method"], data["first"], data["second"]) == ("att tucker", SPECTRUM, BUDGET)
    assert {cell["task"]: cell["difference"]["n"] for cell in data["cells"]} == {"dtd": 8, "cub": 5}
    for arguments, says in (
        (["att", "--between", "isorank 8", BUDGET], f"Known: {RANK}, {BUDGET}, {SPECTRUM}."),
        (["att", "--between", BUDGET, "isoparameter 4"], f"both are 'isoparameter r=4'; known conditions: {RANK}"),
        (["att", "lora", "--between", RANK, BUDGET], "leave out 'lora' or --between"),
        (["att"], "nothing to compare 'att' with"),
        (["atr", "--between", RANK, BUDGET], "Unknown method 'atr'. Did you mean"),
    ):
        refused = compare(folder, *arguments)
        said = " ".join(re.sub(r"[│╭╮╰╯─]", " ", refused.stderr).split())
        assert refused.returncode == 2 and says in said and "Traceback" not in said, said


def test_a_multiplier_may_be_typed_with_an_x():
    rows = ["att_qkv_depth tucker core×1", "att_qkv_depth tucker core×8", "att_qkv_depth tucker core×16"]
    assert parse_name("att_qkv_depth tucker corex1", "method", rows) == rows[0]
    assert parse_name(shlex.split("'att_qkv_depth tucker core×8'")[0], "method", rows) == rows[1]
