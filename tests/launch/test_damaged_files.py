"""Damaged files: no command shows a traceback, one run's files never hide the others, and all commands agree."""

import json

import damage
import pytest
from fake_slurm import FakeSlurm
from typer.testing import CliRunner

from launch.monitor.status import collect
from launch.planning.plan import check, recover
from launch.planning.sweep_file import load_sweep
from launch.records.submission import Submission
from launch.worker.worker import Worker
from tensloradist.cli import _OF_THE_DISK, _application
from tensloradist.errors import UserError
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import recover_broken

NAMED = ("claim.0002", "finished result.json", "attempt.json", "end.json", "failure.json", "decision.json")
PROFILE = "options: {default: {}}\n"


class Commands:
    """Every command that reads a results folder, in this process; the text of a mistake is returned, too."""

    def __init__(self, file, root, scratch):
        self.file, self.root, self.scratch, self.app = file, root, scratch, _application()
        self.profile = scratch / "site.yaml"
        self.profile.write_text(PROFILE)

    def __call__(self, *words):
        done = CliRunner().invoke(self.app, [*map(str, words)])
        error = done.exception
        known = isinstance(error, UserError | SystemExit) or hasattr(error, "format_message")
        known = known or (isinstance(error, OSError) and error.errno in _OF_THE_DISK)
        if error is not None and not known:
            raise AssertionError(f"{' '.join(map(str, words))}: {error!r}") from error
        return done.output + (str(error) if isinstance(error, UserError | OSError) else "")

    def quick(self, run):
        """Those that need no torch."""
        at = ("--results", self.root)
        return [
            ("status", "dented", *at),
            ("status", "dented", "--json", *at),
            ("explain", run, "--log", *at),
            ("hold", "dented", "--run", run, *at),
            ("hold", "dented", "--release", "--run", run, *at),
            ("cancel", "dented", *at),
            ("efficiency", "dented", *at),
        ]

    def heavy(self, run):
        at, cell = ("--results", self.root), "att tucker, digits, isorank r=2"
        return [
            ("explain", run, *at),
            ("plan", self.file, *at),
            ("launch", self.file, "--dry-run", "--profile", self.profile, *at),
            ("launch", self.file, "--failed", "preempted", *at),
            ("report", "dented", "--only", "tables", *at),
            ("report", "dented", "--only", "results", *at),
            ("explain", cell, *at),
            ("compare", "lora", "att tucker", *at),
            ("compare", run, run, *at),
            ("reproduce", cell, "--seed", "17", *at),
            ("bundle", "dented", "--out", self.scratch / "b.bundle.tar.gz", *at),
        ]

    def slow(self, run):
        at, out, folder = ("--results", self.root), self.scratch / "out", self.root / "runs" / run
        return [
            ("report", "dented", "--only", "figures", "--out", out, *at),
            ("report", "dented", "--out", out, *at),
            ("evaluate", folder),
            ("export", folder, self.scratch / "exported"),
        ]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    return damage.make(folder), folder / "results"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The same with what training leaves: adapters, heads and predictions."""
    from tensloradist.training import train

    folder = tmp_path_factory.mktemp("trained")
    return damage.make(folder, train), folder / "results"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    slurm = FakeSlurm(tmp_path / "bin").install(monkeypatch)
    slurm.says("sacct", "7_0|FAILED|9|00:09|1|\n7_1|COMPLETED|9|00:09|1|\n")
    return slurm


@pytest.fixture
def dented(original, tmp_path, monkeypatch, request):
    if "slurm" not in request.fixturenames:
        monkeypatch.setenv("PATH", str(tmp_path))  # the files alone are enough
    return damage.Dented(original[1], tmp_path / "results")


@pytest.fixture
def commands(original, dented, tmp_path):
    return Commands(original[0], dented.root, tmp_path)


def states(root):
    return {run.run_id: run.state for run in collect("dented", root).runs}


def planned(file, root):
    return check(load_sweep(str(file)), root).states


def test_one_damaged_file_neither_stops_status_nor_hides_the_other_runs(original, dented, commands):
    before = states(dented.root)
    for kind, place in damage.kinds(original[1]).items():
        run = damage.folder_of(dented.root, place)
        path = dented.damage(place, "garbage", b"\xff\xfe garbage")
        shown = commands("status", "dented", "--results", dented.root)
        if kind in ("manifest", "latest"):
            assert f"{path}: " in shown and "launch the sweep's file again" in shown
        else:
            after = states(dented.root)
            assert {other: after[other] for other in after if other != run} == {
                other: before[other] for other in after if other != run
            }, kind
        if kind in NAMED:
            assert f"{path}: " in shown, (kind, shown)
            assert after[run] == "broken" or (after[run] == before[run] == "claimed"), kind
        if kind in NAMED:
            commands("explain", run, "--log", "--results", dented.root)
        if "launches" in place.parts:
            commands("cancel", "dented", "--results", dented.root)
        dented.restore()


@pytest.mark.evidence
@pytest.mark.parametrize("kind", damage.KINDS)
def test_no_damage_of_any_file_gives_a_traceback_in_any_command(trained, slurm, tmp_path, kind):
    dented = damage.Dented(trained[1], tmp_path / "results")
    commands = Commands(trained[0], dented.root, tmp_path)
    places = damage.kinds(trained[1])
    assert set(places) == set(damage.KINDS)
    place = places[kind]
    run = damage.folder_of(dented.root, place) or next(iter(states(trained[1])))
    for how, content in damage.damages(trained[1] / place).items():
        dented.damage(place, how, content)
        slow = commands.slow(run) if how in ("truncated", "newer", "other types", "folder") else []
        for words in (*commands.quick(run), *commands.heavy(run), *slow):
            try:
                commands(*words)
            except AssertionError as error:
                raise AssertionError(how) from error
            for left in ("b.bundle.tar.gz", "exported"):
                damage.remove(commands.scratch / left)
        dented.restore()


@pytest.mark.parametrize("kind", ["finished result.json", "attempt.json", "end.json", "failure.json", "claim.0002"])
def test_what_a_newer_version_has_made_is_left_alone_by_all_commands(original, dented, commands, kind):
    place = damage.kinds(original[1])[kind]
    run = damage.folder_of(dented.root, place)
    newer = damage.damages(original[1] / place)["newer"]
    path = dented.damage(place, "newer", newer)
    assert states(dented.root)[run] == "newer"
    assert planned(commands.file, dented.root)[run] == "made by a newer version"
    says = f"{path}: made by a newer version of tensloradist (schema_version 2; this version reads 1); update"
    assert says in commands("status", "dented", "--results", dented.root)
    dry = commands("launch", commands.file, "--dry-run", "--profile", commands.profile, "--results", dented.root)
    assert says in dry and "1 made by a newer version" in dry
    assert recover_broken(RunFolder(dented.root, run)) is None and path.read_bytes() == newer


def test_a_newer_field_marks_a_newer_version_and_other_damage_does_not(original, dented):
    place = damage.kinds(original[1])["finished result.json"]
    run, ways = damage.folder_of(dented.root, place), damage.damages(original[1] / place)
    for how, state in (("a new field", "newer"), ("other types", "broken"), ("truncated", "broken")):
        dented.damage(place, how, ways[how])
        assert states(dented.root)[run] == state
        dented.restore()


def test_a_sweep_that_a_newer_version_has_launched_is_not_launched_over(original, dented, commands):
    place = damage.kinds(original[1])["manifest"]
    path = dented.damage(place, "newer", damage.damages(original[1] / place)["newer"])
    says = f"{path}: made by a newer version of tensloradist (schema_version 2; this version reads 1); update"
    assert says in commands("status", "dented", "--results", dented.root)
    with pytest.raises(UserError, match="made by a newer version"):
        damage.write_manifest(load_sweep(str(commands.file)), dented.root)


def test_a_damaged_manifest_is_written_anew_by_launching_the_same_sweep(original, dented, commands):
    place = damage.kinds(original[1])["manifest"]
    content = (dented.root / place).read_bytes()
    for how in ("truncated", "empty", "other types"):
        dented.damage(place, how, damage.damages(original[1] / place)[how])
        assert "launch the sweep's file again" in commands("status", "dented", "--results", dented.root)
        damage.write_manifest(load_sweep(str(commands.file)), dented.root)
        assert (dented.root / place).read_bytes() == content
        assert "of 6 runs" in commands("status", "dented", "--results", dented.root)


def test_jobs_are_known_by_their_own_records_where_the_summary_is_damaged(original, dented, slurm, commands):
    slurm.queue(("7_0", "RUNNING", 0))
    place = damage.kinds(original[1])["slurm.json"]
    path = dented.damage(place, "truncated", b'{"profile": "si')
    assert f"{path}: " in commands("status", "dented", "--results", dented.root)
    assert "Cancelled 1 Slurm job;" in commands("cancel", "dented", "--results", dented.root)
    assert slurm.asked("scancel") == ["7"]


def test_a_bundle_that_is_newer_damaged_or_no_bundle_is_refused(original, commands, tmp_path):
    import gzip
    import io
    import tarfile

    def bundle(head):
        path, data = tmp_path / "x.bundle.tar.gz", json.dumps(head).encode()
        with tarfile.open(path, "w:gz") as tar:
            member = tarfile.TarInfo("bundle.json")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        return path

    def refused(path):
        return commands("report", path, "--only", "tables", "--results", commands.root)

    head = {"version": 1, "sweep": "s", "files": {}}
    assert "made by a newer version of tensloradist (version 2" in refused(bundle({**head, "version": 2}))
    assert "bundle.json: the bundle's head is damaged" in refused(bundle({**head, "files": ["a"]}))
    assert "damaged: ../../x is not as it was bundled" in refused(bundle({**head, "files": {"../../x": "0"}}))
    path = bundle(head)
    for content in (b"", b"\x1f\x8b garbage", gzip.compress(b"no archive"), path.read_bytes()[:40]):
        path.write_bytes(content)
        assert "cannot be read as a bundle" in refused(path)


@pytest.mark.parametrize("left", [True, False])
def test_runs_that_would_go_on_say_so_where_no_job_is_left(original, dented, slurm, commands, left):
    slurm.queue(*[("7_1", "PENDING", 0)] * left)
    next(dented.root.glob("runs/*/claim.0002")).unlink()
    shown = commands("status", "dented", "--results", dented.root)
    go_on = f"no job or worker is left that would train them; type: tensloradist launch {commands.file}"
    assert "2 planned" in shown and (go_on in shown) != left


def test_names_and_numbers_that_nobody_writes_stop_no_command(original, dented, commands):
    run = damage.folder_of(dented.root, damage.kinds(original[1])["claim.0002"])
    folder = dented.root / "runs" / run
    claim = json.loads((folder / "claim.0002").read_text())
    for field, value in (("pid", 2**70), ("pid", 0), ("pid", -1), ("heartbeat_seconds", -5)):
        (folder / "claim.0002").unlink()
        (folder / "claim.0002").write_text(json.dumps({**claim, field: value}))
        assert f"claim.0002: the claim is damaged ({field}: " in commands("status", "dented", "--results", dented.root)
    dented.restore()
    (folder / "attempts" / "0001" / "end.json").unlink()
    before = states(dented.root)
    for digits in (400, 5000):
        (folder / "heartbeat.0001").write_text("9" * digits)
        assert states(dented.root) == before
    for name in ("attempts/²", "claim.²", "attempts/0001/checkpoints/step-²", "attempts/" + "9" * 200):
        (folder / name).mkdir()
    assert states(dented.root) == before and planned(commands.file, dented.root)[run] == "claimed on another machine"


def test_one_run_in_a_colleagues_closed_folder_keeps_no_other_from_being_launched(original, dented, commands):
    """Made with umask 077, in a results folder that several users share."""
    sweep = load_sweep(str(commands.file))
    ids = [run.run_id for run in sweep.runs]
    manifest = next((dented.root / "sweeps" / "dented").glob("*.json"))
    submission = dented.root / "submission-0.json"
    for number in (0, 2):  # one with a result, one that has failed
        with damage.forbidden(dented.root / "runs" / ids[number]) as folder:
            recover(sweep, dented.root)
            assert check(sweep, dented.root).states[ids[number]] == "not readable"
            shown = commands(
                "launch", commands.file, "--dry-run", "--profile", commands.profile, "--results", dented.root
            )
            assert f"{folder}" in shown and "1 not readable" in shown
            known = Submission(str(manifest), str(dented.root), 1, baseline={ids[1]: 9, ids[number]: 9})
            submission.write_text(known.to_json())
            worker = Worker(submission, "x")
            assert not worker.drain() and worker.needing_more() == {}
            assert json.loads((dented.root / "worker-x.json").read_text())["state"] == "ended"


def test_a_launch_or_log_that_may_not_be_read_is_named_and_hides_nothing(original, dented, slurm, commands):
    slurm.queue(("7_0", "RUNNING", 0))
    at = ("--results", dented.root)
    for log in sorted(dented.root.glob("runs/*/attempts/0001/log.txt")):
        with damage.forbidden(log):
            commands("status", "dented", *at)
            assert "it cannot be read: Permission denied" in commands("explain", log.parents[2].name, "--log", *at)
    (launch := next(dented.root.glob("sweeps/dented/launches/*"))).with_name("20260102T000000-bbbbbb").mkdir()
    with damage.forbidden(launch.with_name("20260102T000000-bbbbbb")) as closed:
        shown = commands("status", "dented", *at)
        assert f"{closed}/slurm.json: " in shown and ", 1 running" in shown
