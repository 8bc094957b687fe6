"""Every code block of the documentation runs as printed; a block that cannot run here is parsed by what would read it.

The tutorial runs first. The other pages' commands run in the folder that it leaves, in which a reader would type them.
"""

import re
import shlex
import sys
from importlib.util import find_spec

import pytest
import torch
import typer
from documentation import LANGUAGES, NEEDS, PAGES, ROOT, all_blocks, blocks_of, commands_of, name_of, run

from launch.planning.sweep_file import SweepFile, axes, load_sweep
from launch.slurm.profile import Options, Profile, load_profile
from tensloradist.backbones import FAMILIES
from tensloradist.cli import _application
from tensloradist.factorizations import FACTORIZATIONS
from tensloradist.metrics import METRICS
from tensloradist.plugins import load_plugins
from tensloradist.spec import BackboneSpec, RunSpec, TaskSpec
from tensloradist.tasks import TASKS
from tensloradist.yaml_reader import read_yaml

TUTORIAL = ROOT / "docs" / "tutorial.md"
SHELL = {"pip"}  # beside the commands that are looked at below
DIGITS = {"backbone": {"source": "digits_vit", "name": "digits_vit"}, "task": {"name": "digits"}}
RUN = {**DIGITS, "adapter": {"grouping": "qkv_depth"}}
SWEEP = {**DIGITS, "name": "example", "methods": ["lora"], "conditions": [{"isorank": [2]}]}


@pytest.fixture(scope="module")
def parser():
    return typer.main.get_command(_application())


def parsed(words, parser, where):
    """Have the command line's own parser read the words after `tensloradist`; nothing is run."""
    with parser.make_context("tensloradist", words, resilient_parsing=True) as context:
        name, command, rest = parser.resolve_command(context, words)
        assert not command.hidden, f"{where}: {name} has a successor"
        command.make_context(name, rest, parent=context).close()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_says_what_it_is(page):
    for block in blocks_of(page):
        assert block.language in LANGUAGES, f"{block}: {block.language!r}"
        assert block.needs is None or block.needs in NEEDS, f"{block}: {block.needs}"
        assert not (block.needs and (block.file or block.language != "sh")), f"{block}: only commands may not run"


@pytest.mark.parametrize("block", all_blocks("sh"), ids=str)
def test_every_command_line_is_one(block, parser):
    for words in commands_of(block):
        words = words[: words.index(">")] if ">" in words else words
        if "tensloradist" in words:
            parsed(words[words.index("tensloradist") + 1 :], parser, block)
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"{block}: {words}"
        elif words[:2] == ["python", "-m"]:
            assert find_spec(words[2]), f"{block}: {words}"
            assert all((ROOT / word).exists() for word in words if word.startswith("tests/")), f"{block}: {words}"
        elif words[0] == "python":
            files = {other.file for other in blocks_of(ROOT / block.page)}
            assert words[1] in files or (ROOT / words[1]).exists(), f"{block}: {words}"
        else:
            assert words[0] in SHELL, f"{block}: {words}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_in_the_text_is_one(page, parser):
    for command in re.findall(r"`(tensloradist [a-z][^`]*)`", page.read_text()):
        parsed(shlex.split(command.replace("\\|", "|"))[1:], parser, f"{page.name}: {command}")


@pytest.mark.parametrize("block", all_blocks("yaml"), ids=str)
def test_every_yaml_block_is_a_run_a_sweep_a_profile_or_a_part_of_one(block, tmp_path, monkeypatch):
    file = tmp_path / "example.yaml"
    file.write_text(block.text)
    data = read_yaml(file)
    monkeypatch.syspath_prepend(tmp_path)
    for other in blocks_of(ROOT / block.page):
        if other.language == "python" and other.file:
            (tmp_path / other.file).write_text(other.text)
    load_plugins(data.get("plugins", []))
    if data.keys() <= RunSpec.model_fields.keys() and not isinstance(data.get("precision"), list):
        RunSpec.model_validate({**RUN, **data})
    elif data.keys() <= SweepFile.model_fields.keys():
        for name, model in (("backbone", BackboneSpec), ("task", TaskSpec)):
            section = data.get(name, SWEEP[name])
            for part in section if isinstance(section, list) else [section]:
                for values in axes(part, f"{block}: "):
                    model.model_validate(values)
        whole = SweepFile.model_validate({**SWEEP, **data, **DIGITS})
        if "spectrum" not in block.text:  # which would look at data
            file.write_text(whole.model_dump_json(exclude_none=True))
            assert load_sweep(str(file)).runs
    else:
        assert data.keys() <= Options.model_fields.keys() | Profile.model_fields.keys(), f"{block}: {list(data)}"
        load_profile(str(file))


@pytest.fixture(autouse=True, scope="module")
def registries():
    saved = [(registry, dict(registry)) for registry in (FAMILIES, FACTORIZATIONS, METRICS, TASKS)]
    yield
    for registry, before in saved:
        registry.clear()
        registry.update(before)


# Together they take more than a minute of processor time, so that `make test-distributed` runs them, not `make test`.
typed = pytest.mark.distributed


class Reader:
    """Somebody who types what the pages say, in one folder. A command that has run there is not run again."""

    def __init__(self, folder):
        self.folder, self.output = folder, {}

    def read(self, page):
        namespace = {"__name__": "example"}
        torch.manual_seed(0)
        for block in blocks_of(page):
            if block.needs:
                continue
            if block.file:
                (self.folder / block.file).write_text(block.text)
            elif block.language == "python":
                exec(compile(block.text, str(block), "exec"), namespace)
            elif block.language == "sh":
                for words in commands_of(block):
                    self.type([self.filled_in(word) for word in words], str(block))

    def type(self, words, where):
        """Run a command, unless it has run here. `make demo` and `make test` take longer than all of this."""
        if words[0] != "make" and tuple(words) not in self.output:
            self.output[tuple(words)] = run(words, where)

    def filled_in(self, word):
        """The word with the ids of the two oldest runs in place of the placeholders: the tutorial's."""
        if "run_id>" not in word:
            return word
        by_age = sorted(self.folder.glob("results/runs/*/spec.json"), key=lambda path: path.stat().st_mtime_ns)
        first, second = [path.parent.name for path in (*by_age, by_age[-1])][:2]
        return word.replace("<run_id>", first).replace("<other_run_id>", second)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("TENSLORADIST_RESULTS", raising=False)
        patch.setattr(sys, "path", [str(folder), *sys.path])  # plugins are found beside the sweep file, as by a command
        found = Reader(folder)
        found.read(TUTORIAL)
        yield found


@typed
@pytest.mark.parametrize("page", [page for page in PAGES if page != TUTORIAL], ids=name_of)
def test_the_page_runs(page, reader):
    reader.read(page)


@typed
def test_the_tutorial_ends_with_what_it_shows(reader):
    """Its numbers differ between processors; what it says of the plan, the files and the verdict does not."""
    shown = [block for block in blocks_of(TUTORIAL) if block.language == "text"]
    printed = "".join(reader.output.values())
    plain = re.sub(r"\s+", " ", printed)
    for block in shown:
        for line in block.text.splitlines():
            words = re.sub(r"\s+", " ", line).strip()
            if words and not re.search(r"\d\.\d|[0-9a-f]{16}|…|[┏┡└]", words):
                assert words in plain, f"{block}: {line}"


def test_the_blocks_that_need_something_are_few():
    """What cannot be run is a minority; else the pages would be tested in name only."""
    every = [*all_blocks("sh"), *all_blocks("python")]
    assert sum(block.needs is not None for block in every) < len(every) / 4
