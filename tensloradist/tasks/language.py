"""causal_lm: a language model learns the answers to prompts, from local jsonl or text files.

A jsonl line is {"prompt": …, "answer": …}; a text line is prompt, tab, answer, or an answer alone. The loss is the
answers' negative log-likelihood, the end of text included; the prompt is only read. The scores are the exact match
and the perplexity a token: the answer is matched exactly where every token of it is the most likely one after what
precedes it, which is where greedy decoding gives it, so nothing needs to be generated.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tensloradist import backbones
from tensloradist.backbones import LANGUAGE_MODEL
from tensloradist.backbones.decoders import IGNORED
from tensloradist.caching import cached_folder
from tensloradist.errors import DataMissing, UserError
from tensloradist.fingerprint import hash_bytes, hash_path
from tensloradist.tasks.base import LoadedTask, SplitData, Task, limited, stratified_parts
from tensloradist.tasks.metrics import answers
from tensloradist.tasks.preprocessing import most_tokens, padding_token, require_kind, tokenizer_of
from tensloradist.tasks.progress import tracked

if TYPE_CHECKING:
    from torch import Tensor

    from tensloradist.spec import BackboneSpec, TaskSpec

NAME = "causal_lm"
ENDINGS = (".jsonl", ".txt")
PARTS = ("train", "validation", "test")
FRACTIONS = (0.8, 0.1, 0.1)  # of a single file
VALIDATION_FRACTION = 0.1  # of a training file that comes with a test file alone
_VERSION = 1  # of the cache's layout


@dataclass(frozen=True)
class Example:
    """One line of a file, and where it stands."""

    prompt: str
    answer: str
    where: str


def _files(task: TaskSpec) -> dict[str, Path]:
    """Part -> its file; 'all' for a single one. Raises UserError where a folder's files are not clear."""
    if task.data is None:
        raise UserError(f"task.data: {NAME} needs a .jsonl or .txt file, or a folder with train and test files")
    path = Path(task.data).expanduser()
    if path.is_file():
        if path.suffix not in ENDINGS:
            raise UserError(f"task.data: {task.data} is neither .jsonl nor .txt")
        return {"all": path}
    if not path.is_dir():
        raise DataMissing(f"task.data: {task.data}: no such file or folder")
    found: dict[str, Path] = {}
    for part in PARTS:
        files = [path / f"{part}{ending}" for ending in ENDINGS if (path / f"{part}{ending}").is_file()]
        if len(files) > 1:
            raise UserError(f"task.data: {path} has both {files[0].name} and {files[1].name}; keep one of them")
        if files:
            found[part] = files[0]
        elif part != "validation":
            raise UserError(f"task.data: {path} has no {part}.jsonl and no {part}.txt; it needs train and test files")
    return found


def _read(path: Path) -> list[Example]:
    """The file's examples. Raises UserError with the number of a line that is none."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines would also cut at rarer ends of lines
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"task.data: {path}: cannot be read as UTF-8 text ({error})") from error
    parse = _of_json if path.suffix == ".jsonl" else _of_text
    lines = [line.removesuffix("\r") for line in lines]
    examples = [parse(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not examples:
        raise UserError(f"task.data: {path}: no examples")
    return examples


def _of_text(line: str, where: str) -> Example:
    prompt, tab, answer = line.partition("\t")
    return _checked(Example(prompt, answer, where) if tab else Example("", line, where))


def _of_json(line: str, where: str) -> Example:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise UserError(f"{where}: not a line of JSON with fields ({error})") from error
    for field in ("prompt", "answer"):
        if not isinstance(row.get(field), str):
            has = f"{field} = {row[field]!r}" if field in row else f"no field {field!r}; it has {', '.join(row)}"
            raise UserError(f"{where}: {has}; expected the texts 'prompt' and 'answer'")
    return _checked(Example(row["prompt"], row["answer"], where))


def _checked(example: Example) -> Example:
    if not example.answer:
        raise UserError(f"{example.where}: the answer is empty, so there is nothing to learn")
    return example


class _Tokenizer:
    """Prompts and answers to tokens: what the tokenizer puts before a text, the prompt, the answer, the end of text."""

    def __init__(self, backbone: BackboneSpec) -> None:
        self.own: Any = tokenizer_of(backbone)
        if self.own.eos_token_id is None:
            raise UserError(f"backbone.name: the tokenizer of {backbone.name} has no token for the end of a text")
        self.end = int(self.own.eos_token_id)

    def __call__(self, examples: list[Example], limit: int) -> tuple[list[npt.NDArray[np.int32]], list[int]]:
        """Each example's tokens, and how many of them precede its answer. A prompt too long loses its beginning."""
        prompts = self.own([example.prompt for example in examples])["input_ids"]
        answers = self.own([example.answer for example in examples], add_special_tokens=False)["input_ids"]
        tokens, starts = [], []
        for example, prompt, answer in zip(examples, prompts, answers, strict=True):
            if prompt and prompt[-1] == self.end:
                prompt = prompt[:-1]  # some tokenizers end every text
            prompt = prompt or [self.end]  # the first token of an answer is predicted from something
            answer = [*answer, self.end]
            room = limit - len(answer)
            if room < 1:
                raise UserError(
                    f"{example.where}: an answer of {len(answer)} tokens leaves no room for its prompt within {limit}; "
                    "shorten it, or raise task.max_length as far as the backbone goes"
                )
            prompt = prompt[-room:]
            tokens.append(np.asarray([*prompt, *answer], np.int32))
            starts.append(len(prompt))
        return tokens, starts


@dataclass(frozen=True)
class _Tokens:
    """Tokens of all examples in one array, cut by `bounds`; `prompts`: how many precede each answer."""

    ids: npt.NDArray[np.int32]
    bounds: npt.NDArray[np.int64]
    prompts: npt.NDArray[np.int64]


def _tokenised(examples: list[Example], limit: int, backbone: BackboneSpec, name: str, key: str) -> _Tokens:
    import tokenizers

    def make(folder: Path) -> None:
        tokenizer = _Tokenizer(backbone)
        ids, prompts = [], []
        for start in tracked(range(0, len(examples), 1000), f"tokenising {name}, thousands of examples"):
            some, before = tokenizer(examples[start : start + 1000], limit)
            ids += some
            prompts += before
        np.save(folder / "ids.npy", np.concatenate(ids))
        np.save(folder / "bounds.npy", np.cumsum([0, *(len(one) for one in ids)]))
        np.save(folder / "prompts.npy", np.asarray(prompts, np.int64))

    parts = ("language", str(_VERSION), tokenizers.__version__, key, name, str(limit))
    digest = hash_bytes(*parts, backbone.fingerprint or backbones.fingerprint(backbone))
    folder = cached_folder("language", digest, make)
    return _Tokens(*(np.load(folder / f"{part}.npy") for part in ("ids", "bounds", "prompts")))


class _Language(SplitData):
    """A part of a tokenised file. A label is the number of its answer's tokens, the terms of its loss."""

    def __init__(self, tokens: _Tokens, indices: npt.NDArray[np.int64], pad: int, name: str) -> None:
        self.ids = [f"{name}-{index}" for index in indices]
        self.lengths = np.diff(tokens.bounds)[indices]
        self.labels = self.lengths - tokens.prompts[indices]
        self.terms = self.labels
        self._tokens, self._indices, self._pad = tokens, indices, pad

    def batch(
        self, indices: Sequence[int] | npt.NDArray[np.int64], augment: tuple[int, int] | None
    ) -> dict[str, Tensor]:
        """Tokens padded on the right. `targets` (n, k) belong to the last k positions: the tokens that follow them."""
        import torch

        chosen = self._indices[np.asarray(indices)]
        starts, ends = self._tokens.bounds[chosen, None], self._tokens.bounds[chosen + 1, None]
        width = int((ends - starts).max())
        positions = np.arange(width)
        mask = positions < ends - starts
        ids = np.where(mask, self._tokens.ids[np.where(mask, starts + positions, 0)], self._pad).astype(np.int64)
        answer = mask & (positions >= self._tokens.prompts[chosen, None])
        following = np.full_like(ids, IGNORED)
        following[:, :-1] = np.where(answer, ids, IGNORED)[:, 1:]
        first = int(self._tokens.prompts[chosen].min()) - 1
        arrays = {"input_ids": ids, "attention_mask": mask.astype(np.int64), "targets": following[:, first:]}
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def load(task: TaskSpec, backbone: BackboneSpec, protocol: str) -> LoadedTask:
    """A single file is cut 80 : 10 : 10; a folder's validation file may be missing, and is then cut from train.

    Raises:
        UserError: a line that is no example, an answer too long, a backbone that is no decoder.
    """
    require_kind(backbone, "text", task.name)
    backbones.empty(backbone, LANGUAGE_MODEL)  # refuses what is no language model, before anything is tokenised
    if task.augmentation != "none":
        raise UserError(f"task.augmentation: {task.augmentation!r} is for images; task {NAME} takes none")
    most = most_tokens(backbone)
    limit = task.max_length or most
    if limit > most:
        raise UserError(f"task.max_length: {limit} exceeds the {most} tokens that {backbone.name} takes")
    data_fingerprint = task.fingerprint or fingerprint(task)
    pad = padding_token(backbone)
    files = _files(task)
    tokens = {n: _tokenised(_read(path), limit, backbone, n, data_fingerprint) for n, path in files.items()}
    everything = {name: np.arange(len(part.prompts)) for name, part in tokens.items()}

    def part(name: str, indices: npt.NDArray[np.int64]) -> _Language:
        return _Language(tokens[name], indices, pad, name)

    def cut(name: str, fractions: tuple[float, ...]) -> list[npt.NDArray[np.int64]]:
        return stratified_parts(np.zeros(len(everything[name]), np.int64), fractions, task.split_seed)

    if "all" in files:
        kept, carved, held_out = cut("all", FRACTIONS)
        train, validation, test = part("all", limited(kept, task)), part("all", carved), part("all", held_out)
    else:
        test = part("test", everything["test"])
        if "validation" in files or protocol == "official":
            kept = everything["train"]
            validation = part("validation", everything["validation"]) if "validation" in files else test
        else:
            kept, carved = cut("train", (1 - VALIDATION_FRACTION, VALIDATION_FRACTION))
            validation = part("train", carved)
        train = part("train", limited(kept, task))
    return LoadedTask(
        NAME,
        "text",
        LANGUAGE_MODEL,
        False,
        train,
        test if protocol == "official" else validation,
        test,
        primary_metric="exact_match",
        metric_names=("exact_match", "perplexity"),
        metrics=answers,
        data_fingerprint=data_fingerprint,
        lower_is_better=("perplexity",),
    )


def fingerprint(task: TaskSpec) -> str:
    files = _files(task)
    if "all" in files:
        content = hash_path(files["all"])
        # The same bytes are other examples as lines of text than as lines of JSON.
        return hash_bytes(".txt", content) if files["all"].suffix == ".txt" else content
    names = {path.name for path in files.values()}
    return hash_path(Path(str(task.data)), include=names.__contains__)


def label(task: TaskSpec) -> str:
    return Path(str(task.data)).stem if task.data else NAME


def _fetch(task: TaskSpec, backbone: BackboneSpec, protocol: str) -> list[str]:
    loaded = load(task, backbone, protocol)
    return [f"{label(task)}: {len(loaded.train)} + {len(loaded.validation)} + {len(loaded.test)} examples ready"]


def _example(folder: Path) -> tuple[TaskSpec, BackboneSpec]:
    from tensloradist.tasks.examples import language_backbone, language_folder

    return language_folder(folder), language_backbone(folder)


CAUSAL_LM = Task(
    name=NAME,
    kind="text",
    load=load,
    fingerprint=fingerprint,
    label=label,
    num_labels=lambda task: LANGUAGE_MODEL,
    example=_example,
    fetch=_fetch,
)
