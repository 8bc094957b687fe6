"""causal_lm: a language model learns the answers to prompts, from local jsonl or text files.

A jsonl line is {"prompt": …, "answer": …}; a text line is prompt, tab, answer, or only an answer; further tabs belong
to the answer. Tokens for the beginning and the end of a text are not added if a chat template has written them. The
loss is the answers' negative log-likelihood, including the end of text. The scores are the exact match and the
perplexity per token. An answer matches if each of its tokens is the most likely one after those before it, which is
when greedy decoding produces it, so nothing needs to be generated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tensloradist import backbones
from tensloradist.backbones import LANGUAGE_MODEL
from tensloradist.backbones.decoders import IGNORED
from tensloradist.caching import cached_folder
from tensloradist.errors import UserError
from tensloradist.fingerprint import hash_bytes
from tensloradist.metrics import scorer
from tensloradist.tasks import language_rows
from tensloradist.tasks.base import (
    LoadedTask,
    SplitData,
    Task,
    drawn,
    limited,
    parts_line,
    require_fingerprint,
    stratified_parts,
)
from tensloradist.tasks.language_rows import NAME, Example, fingerprint, may_begin, may_end
from tensloradist.tasks.preprocessing import most_tokens, padding_token, require_kind, tokenizer_of
from tensloradist.tasks.progress import tracked
from tensloradist.tasks.vocabulary import check_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from tensloradist.spec import BackboneSpec, TaskSpec

FRACTIONS = (0.8, 0.1, 0.1)  # of a single file
VALIDATION_FRACTION = 0.1  # of a training file that comes with a test file alone
_VERSION = 3  # of the cache's layout, and of how files are read
METRIC_NAMES = ("exact_match", "perplexity")


class _Tokenizer:
    """Prompts and answers to tokens: the tokenizer's beginning of a text, the prompt, the answer, the end of text."""

    def __init__(self, backbone: BackboneSpec) -> None:
        self.own: Any = tokenizer_of(backbone)
        if self.own.eos_token_id is None:
            raise UserError(f"backbone.name: the tokenizer of {backbone.name} has no token for the end of a text")
        self.end = int(self.own.eos_token_id)
        self.before, self.after = self._added()

    def _added(self) -> tuple[list[int], list[int]]:
        """The tokens that the tokenizer adds before and after every text, except for an end of text."""
        text = self.own("a", add_special_tokens=False)["input_ids"]
        whole = self.own("a")["input_ids"]
        start = next(i for i in range(len(whole)) if whole[i : i + len(text)] == text)
        after = whole[start + len(text) :]
        return whole[:start], after[:-1] if after and after[-1] == self.end else after

    def __call__(self, examples: Sequence[Example], limit: int) -> tuple[list[npt.NDArray[np.int32]], list[int]]:
        """Each example's tokens, and how many of them precede its answer. A long prompt loses its beginning."""
        prompts = self.own([example.prompt for example in examples], add_special_tokens=False)["input_ids"]
        answers = self.own([self._unended(example) for example in examples], add_special_tokens=False)["input_ids"]
        tokens, starts = [], []
        for example, prompt, answer in zip(examples, prompts, answers, strict=True):
            begun = may_begin(example.prompt) and prompt[: len(self.before)] == self.before  # by a chat template
            prompt = [*([] if begun else self.before), *prompt, *self.after]
            prompt = prompt or [self.end]  # the first token of an answer needs a token before it
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

    def _unended(self, example: Example) -> str:
        """The answer without the end of text, and the line end after it, that a chat template has written."""
        ended = example.answer.rstrip()
        if not (may_end(ended) and ended.endswith(self.own.eos_token)):
            return example.answer
        answer = ended.removesuffix(self.own.eos_token)
        if not answer:
            raise UserError(f"{example.where}: the answer is only {ended!r}, so there is nothing to learn")
        return answer


@dataclass(frozen=True)
class _Tokens:
    """Tokens of all examples in one array, cut by `bounds`; `prompts`: how many precede each answer."""

    ids: npt.NDArray[np.int32]
    bounds: npt.NDArray[np.int64]
    prompts: npt.NDArray[np.int64]


def _tokenised(examples: Sequence[Example], limit: int, backbone: BackboneSpec, name: str, key: str) -> _Tokens:
    import tokenizers
    import transformers

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

    parts = ("language", str(_VERSION), tokenizers.__version__, transformers.__version__, key, name, str(limit))
    digest = hash_bytes(*parts, backbone.fingerprint or backbones.fingerprint(backbone))
    folder = cached_folder("language", digest, make)
    tokens = _Tokens(*(np.load(folder / f"{part}.npy") for part in ("ids", "bounds", "prompts")))
    check_tokens(tokens.ids, tokens.bounds, backbone, lambda index: examples[index].where)
    return tokens


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
        UserError: a line is not an example, an answer is too long, or the backbone is not a decoder.
    """
    require_kind(backbone, "text", task.name)
    backbone = backbones.pinned(backbone)
    backbones.empty(backbone, LANGUAGE_MODEL)  # refuses other models before anything is tokenised
    if task.augmentation != "none":
        raise UserError(f"task.augmentation: {task.augmentation!r} is for images; task {NAME} takes none")
    most = most_tokens(backbone)
    limit = task.max_length or most
    if limit > most:
        raise UserError(f"task.max_length: {limit} exceeds the {most} tokens that {backbone.name} takes")
    pad = padding_token(backbone)
    files, examples, data_fingerprint = language_rows.read(task)
    require_fingerprint(task, data_fingerprint)
    tokens = {n: _tokenised(part, limit, backbone, n, data_fingerprint) for n, part in examples.items()}

    def part(name: str, indices: npt.NDArray[np.int64]) -> _Language:
        return _Language(tokens[name], indices, pad, name)

    parts, origin = _split(examples, task, protocol), _origin(files, protocol == "official")
    train, validation, test = (part(*where) for where in _limited(parts, task))
    return LoadedTask(
        name=NAME,
        kind="text",
        num_labels=LANGUAGE_MODEL,
        regression=False,
        train=train,
        validation=validation,
        test=test,
        primary_metric=METRIC_NAMES[0],
        metric_names=METRIC_NAMES,
        metrics=scorer(*METRIC_NAMES),
        data_fingerprint=data_fingerprint,
        origin="; ".join([origin, *drawn(task, len(parts[0][1]))]),
    )


_Indices = tuple[str, npt.NDArray[np.int64]]  # a file's name, and which of its examples


def _split(examples: Mapping[str, Sequence[Example]], task: TaskSpec, protocol: str) -> list[_Indices]:
    """The training, validation and test parts, before `task.train_examples` of the first are drawn."""
    sizes = {name: len(part) for name, part in examples.items()}

    def cut(name: str, fractions: tuple[float, ...]) -> list[npt.NDArray[np.int64]]:
        return stratified_parts(np.zeros(sizes[name], np.int64), fractions, task.split_seed)

    def whole(name: str) -> _Indices:
        return name, np.arange(sizes[name])

    if "all" in sizes:
        kept, carved, held_out = cut("all", FRACTIONS)
        parts = [("all", kept), ("all", carved), ("all", held_out)]
    elif "validation" in sizes or protocol == "official":
        chosen = whole("validation") if "validation" in sizes else whole("test")
        parts = [whole("train"), chosen, whole("test")]
    else:
        kept, carved = cut("train", (1 - VALIDATION_FRACTION, VALIDATION_FRACTION))
        parts = [("train", kept), ("train", carved), whole("test")]
    return [parts[0], parts[2], parts[2]] if protocol == "official" else parts


def _limited(parts: list[_Indices], task: TaskSpec) -> list[_Indices]:
    (name, train), *others = parts
    return [(name, limited(train, task)), *others]


def _parts(task: TaskSpec, protocol: str) -> str:
    files, examples, _ = language_rows.read(task)
    parts, origin = _split(examples, task, protocol), _origin(files, protocol == "official")
    sizes = [len(indices) for _, indices in _limited(parts, task)]
    return parts_line(NAME, sizes, protocol == "official", "; ".join([origin, *drawn(task, len(parts[0][1]))]))


def _origin(files: dict[str, Path], official: bool) -> str:
    """Where each part comes from, for people."""
    names = {part: path.name for part, path in files.items()}
    if "all" in names:
        chosen = "; the test part is the validation part, too" if official else ""
        return f"{names['all']}, cut 80 : 10 : 10{chosen}"
    if official:
        return f"{names['train']}; {names['test']} is the validation part and the test part"
    if "validation" in names:
        return f"{names['train']}, {names['validation']} and {names['test']}"
    return f"{names['train']} ({VALIDATION_FRACTION:.0%} held out for validation); {names['test']} is the test part"


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
    has_head=False,
    load=load,
    fingerprint=fingerprint,
    label=label,
    num_labels=lambda task: LANGUAGE_MODEL,
    example=_example,
    fetch=_fetch,
    parts=_parts,
)
