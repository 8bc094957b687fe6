"""Cluster profiles: the shipped ones, option sets, and mistakes named by field."""

import pytest

from launch.slurm.profile import Options, load_profile, shipped_profiles
from tensloradist.errors import UserError


def test_the_shipped_profiles_are_valid_and_say_what_they_are_for():
    found = {profile.name: profile for profile in shipped_profiles()}
    assert {"devcluster", "gpu_node", "multi_node"} <= found.keys()
    assert all(profile.description for profile in found.values())
    assert found["gpu_node"].options["preemptible"].workers == 8
    assert found["multi_node"].options["normal"].environment["NCCL_SOCKET_IFNAME"]
    assert found["devcluster"].options["low"].layout(2) == (2, 1)


def write(tmp_path, text):
    path = tmp_path / "site.yaml"
    path.write_text(text)
    return str(path)


def test_an_option_set_overrides_what_is_common(tmp_path):
    profile = load_profile(
        write(tmp_path, "time_minutes: 90\noptions:\n  a: {partition: x}\n  b: {time_minutes: 30}\n")
    )
    assert profile.name == "site" and list(profile.chosen(None)) == ["a"]
    both = profile.chosen(["b", "a"])
    assert [(name, options.time_minutes) for name, options in both.items()] == [("b", 30), ("a", 90)]
    with pytest.raises(UserError, match=r"Unknown option set 'c'.*Known: a, b"):
        profile.chosen(["c"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("time_minute: 5\n", r"time_minute: unknown key\. Did you mean 'time_minutes'"),
        ("time_minutes: 0\n", r"time_minutes: 0: must be greater than or equal to 1"),
        ("options: {a: {gpus_per_node: -1}}\n", r"gpus_per_node: -1"),
        ("options: [low, high]\n", r"options: .*must be a mapping"),
        (
            "time_minutes: 1\nsignal_lead_seconds: 60\n",
            r"signal_lead_seconds: 60 is not less than the time limit of 1 minute$",
        ),
        ("workers_per_gpu: 2\n", r"workers_per_gpu: 2, but gpus_per_node is 0"),
        ("time_minutes: 1:2:3:4\n", r"time_minutes: '1:2:3:4' is not a time; write minutes, minutes:seconds, hours:"),
        ("time_minutes: 0:00\n", r"time_minutes: 0: must be greater than or equal to 1"),
        ("time_minutes: UNLIMITED\n", r"time_minutes: 'UNLIMITED' is not a time"),
        ("sbatch: {time: 5}\n", r"sbatch\.time: this is the profile's field time_minutes"),
        ("sbatch: {job_name: x}\n", r"sbatch\.job_name: every submission sets this itself"),
        ("environment: {A-B: x}\n", r"environment: 'A-B' is not the name of a variable"),
        ("", "the file is empty"),
    ],
)
def test_mistakes_name_field_and_value(tmp_path, text, says):
    with pytest.raises(UserError, match=says):
        load_profile(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("90:00", 90), ("90:30", 91), ("12:00:00", 720), ("1-12", 2160), ("1-12:30", 2190)]
    + [("1-00:00:00", 1440), ("064", 64), ("'90'", 90)],
)
def test_times_mean_what_sbatch_reads(tmp_path, text, minutes):
    assert load_profile(write(tmp_path, f"time_minutes: {text}\n")).options["default"].time_minutes == minutes


def test_other_times_may_be_written_so_too(tmp_path):
    text = "signal_lead_seconds: 2:00\ntarget_minutes: 1:30:00\ntakeover_seconds: 90\nsbatch: {time-min: 1:30:00}\n"
    options = load_profile(write(tmp_path, text)).options["default"]
    assert (options.signal_lead_seconds, options.target_minutes, options.takeover_seconds) == (120, 90.0, 90.0)
    assert options.sbatch == {"time-min": "1:30:00"}


def test_an_unknown_profile_lists_the_shipped_ones():
    with pytest.raises(UserError, match="devcluster"):
        load_profile("no_such_site")


def test_processes_are_laid_out_over_nodes():
    options = Options(gpus_per_node=4)
    assert options.workers == 4 and options.layout(1) == (1, 1)
    assert options.layout(8) == (2, 4) and options.layout(2) == (1, 2)
    with pytest.raises(UserError, match=r"compute\.processes: 6 is not a multiple of this profile.s 4"):
        options.layout(6)
    assert options.layout(6, nodes=3) == (3, 2), "as the run says"
    with pytest.raises(UserError, match=r"compute\.processes_per_node: 8 processes a node, but .* 4 GPUs"):
        options.layout(16, nodes=2)
    assert Options(gpus_per_node=2, workers_per_gpu=3).workers == 6


@pytest.mark.parametrize(
    ("options", "sharing"),
    [
        ({"gpus_per_node": 2, "workers_per_gpu": 3}, 3),
        ({"gpus_per_node": 2, "workers_per_node": 5}, 3),
        ({"gpus_per_node": 2}, 1),
        ({"workers_per_node": 8}, 1),
    ],
)
def test_workers_that_share_a_gpu_are_counted_however_the_profile_says_it(options, sharing):
    assert Options(**options).sharing_gpu == sharing
