"""A launch on a cluster: what the site takes is taken, what Slurm would misread is refused, and what is printed."""

import pytest
from fake_slurm import FakeSlurm

from launch.planning.plan import check
from launch.planning.sweep_file import load_sweep
from launch.slurm import doctor
from launch.slurm.launch import launch_on_cluster
from launch.slurm.profile import Options, Profile
from launch.slurm.site_check import site_warnings, usable_folder
from tensloradist.errors import UserError

SITE = """
MaxArraySize = 1001
AccountingStorageEnforce = {enforce}
PartitionName=gpu MaxTime=1-00:00:00 TotalNodes=4
PartitionName=long MaxTime=7-00:00:00 TotalNodes=1
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    slurm = FakeSlurm(tmp_path / "bin").install(monkeypatch)
    slurm.says("scontrol", SITE.format(enforce="associations,limits,qos"))
    slurm.says("sacctmgr", "normal|\nlong|PartitionTimeLimit\n")
    monkeypatch.setattr("launch.slurm.commands.accounts", lambda: {"normal", "long"})
    slurm.says("sinfo", "gpu|8|16000|gpu:2\nlong|4|64000|(null)\n")
    return slurm


def checked(**options):
    sets = {"o": Options(max_array_size=1, **options)}
    return site_warnings(Profile(name="p", options=sets), sets)


@pytest.mark.parametrize("options", [
    {}, {"partition": "gpu"}, {"partition": "gpu,long"}, {"partition": "gpu,,long"}, {"account": "Normal"},
    {"qos": "normal,LONG"}, {"constraint": "[a&b|c]"}, {"partition": "gpu", "qos": "long", "time_minutes": 2000},
])  # fmt: skip
def test_what_sbatch_takes_is_taken(slurm, options):
    assert checked(**options) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"partition": "gpu,lang"}, "partition 'lang'; the site has gpu, long"),
        ({"partition": "gpu, long"}, "partition ' long'; the site has"),
        ({"partition": "GPU"}, "partition 'GPU'; the site has"),
        ({"partition": "gpu,long", "time_minutes": 20_000}, "time_minutes: 20000 exceeds the partition's 1440"),
        (
            {"partition": "gpu", "gpus_per_node": 3},
            "gpus_per_node: 3 GPUs a node, but the largest node of partition gpu",
        ),
        ({"account": "normal,x"}, "account 'x'; the site has"),
        ({"qos": "x"}, "qos 'x'; the site has"),
    ],
)
def test_what_no_job_could_have_is_refused(slurm, options, says):
    with pytest.raises(UserError, match=says):
        checked(**options)


def test_of_several_partitions_those_that_give_too_little_are_named(slurm):
    assert checked(partition="gpu,long", time_minutes=2000) == [
        "profile p, option set o: no job will start in partition gpu: time_minutes: 2000 exceeds the partition's 1440"
    ]
    (warning,) = checked(partition="gpu,long", gpus_per_node=1)
    assert "no job will start in partition long: gpus_per_node: 1 GPUs a node" in warning


def test_names_that_accounting_does_not_enforce_are_a_warning(slurm):
    slurm.says("scontrol", SITE.format(enforce="none"))
    assert checked(account="x", qos="y") == [
        "profile p, option set o: account 'x'; the site has long, normal",
        "profile p, option set o: qos 'y'; the site has long, normal",
    ]


def test_what_the_callers_variables_give_is_checked_where_the_profile_leaves_it_open(slurm, monkeypatch):
    monkeypatch.setenv("SBATCH_PARTITION", "lang")
    with pytest.raises(UserError, match="partition 'lang'"):
        checked()
    assert checked(partition="gpu") == []


@pytest.mark.parametrize("name", ["%A", "%j", "100%", "back\\slash", "new\nline", "tab\there"])
def test_a_folder_that_slurm_would_read_as_a_pattern_is_refused_before_anything_is_done(tmp_path, name):
    for refuse in (
        lambda root: launch_on_cluster(None, root, "devcluster"),
        lambda root: doctor.check_site("devcluster", None, root),
    ):
        with pytest.raises(UserError, match="results folder .* Slurm reads .* choose a path without it") as caught:
            refuse(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_other_folders_are_fine(tmp_path):
    usable_folder(tmp_path / "a b'c\"d#é$x;&[/]y")


SWEEP = """
name: s
backbone: {source: digits_vit, name: digits_vit}
task: {name: digits}
methods: [lora]
conditions: [{isorank: [2]}]
seeds: 1
"""


def test_a_launch_prints_names_as_they_are_and_what_became_of_the_callers_variables(
    slurm, tmp_path, monkeypatch, capsys
):
    file, profile, root = tmp_path / "s.yaml", tmp_path / "site.yaml", tmp_path / "x[/]y:key:[red]"
    file.write_text(SWEEP)
    profile.write_text("partition: gpu,long\n")
    for name, value in {"SBATCH_PARTITION": "low", "SBATCH_ACCOUNT": "normal", "SBATCH_WAIT": "1"}.items():
        monkeypatch.setenv(name, value)
    launch_on_cluster(check(load_sweep(str(file)), root), root, str(profile), results=root)
    shown = capsys.readouterr().out
    assert f"Submitted: jobs 101; their files are in {root}/sweeps/s/launches/" in shown
    assert "on partitions gpu, long; a task: 60 min" in shown
    for note in (
        "warning: SBATCH_PARTITION=low is not used: jobs are submitted with --partition=gpu,long",
        "warning: SBATCH_WAIT=1 is not used: the command returns as soon as the jobs are submitted",
        "warning: SBATCH_ACCOUNT=normal is left to sbatch, because the profile does not say it",
    ):
        assert f"{note}\n" in shown
    kept = {name: value for name, value in slurm.environment().items() if name.startswith("SBATCH_")}
    assert kept == {"SBATCH_ACCOUNT": "normal"}
