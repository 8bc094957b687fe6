"""Tiny data sets and preprocessing files for the conformance tests: what each registered task must be able to load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tensloradist.spec import BackboneSpec, TaskSpec

if TYPE_CHECKING:
    from tensloradist.tasks.glue import GlueTask
    from tensloradist.tasks.named_images import HubImages


def _image(seed: int) -> Any:
    from PIL import Image

    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8))


def image_folder(folder: Path, classes: int = 3, each: int = 10) -> TaskSpec:
    for label in range(classes):
        (folder / "images" / f"class{label}").mkdir(parents=True)
        for index in range(each):
            _image(100 * label + index).save(folder / "images" / f"class{label}" / f"{index:02d}.png")
    return TaskSpec(name="images", data=str(folder / "images"))


def image_hub_folder(folder: Path, entry: HubImages) -> TaskSpec:
    """A local copy in the Hub's layout: one parquet file a split, with the entry's columns."""
    from datasets import Dataset, Image

    from tensloradist.tasks.named_images import HUB_IMAGES

    for number, split in enumerate(entry.hub.splits):
        labels = [index % min(entry.classes, 3) for index in range(30)]
        images = [_image(1000 * number + index) for index in range(30)]
        data = Dataset.from_dict({entry.image: images, entry.label: labels}).cast_column(entry.image, Image())
        path = folder / "hub" / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        data.to_parquet(str(path))
    name = next(name for name, known in HUB_IMAGES.items() if known == entry)
    return TaskSpec(name=name, data=str(folder / "hub"), train_examples=12)


def image_backbone(folder: Path) -> BackboneSpec:
    """A tiny randomly initialised ViT, saved as a model folder."""
    from tensloradist._torchvision import declare_missing_operators

    declare_missing_operators()
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    path = folder / "vit"
    config = ViTConfig(
        image_size=16, patch_size=8, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    ViTForImageClassification(config).save_pretrained(path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(path)
    return BackboneSpec(name=str(path))


WORDS = ("the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "table", "fast", "slow", "and", "then")


def glue_folder(folder: Path, entry: GlueTask, train: int = 40, validation: int = 12) -> TaskSpec:
    random = np.random.default_rng(0)
    path = folder / "glue"
    path.mkdir()
    for split, number in (("train", train), ("validation", validation)):
        with (path / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for index in range(number):
                row: dict[str, Any] = {
                    field: " ".join(random.choice(WORDS, random.integers(2, 9))) for field in entry.fields
                }
                row["label"] = float(random.uniform(0, 5)) if entry.labels == 1 else index % entry.labels
                file.write(json.dumps({**row, "idx": index}) + "\n")
    return TaskSpec(name=entry.name, data=str(path))


def text_backbone(folder: Path) -> BackboneSpec:
    """A tiny randomly initialised BERT with a word-level tokenizer, saved as a model folder."""
    from tensloradist._torchvision import declare_missing_operators

    declare_missing_operators()
    import transformers
    from transformers import BertConfig, BertForSequenceClassification

    path = folder / "bert"
    path.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (path / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
    )
    BertForSequenceClassification(config).save_pretrained(path)
    library: Any = transformers  # its tokenizers are made on request, which type checkers do not see
    library.BertTokenizerFast(vocab=str(path / "vocab.txt"), model_max_length=64).save_pretrained(path)
    return BackboneSpec(name=str(path))


def language_folder(folder: Path, train: int = 40, test: int = 12) -> TaskSpec:
    """Questions with answers of one to three words."""
    random = np.random.default_rng(0)
    path = folder / "language"
    path.mkdir()
    for split, number in (("train", train), ("test", test)):
        with (path / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for _ in range(number):
                words = random.choice(WORDS, random.integers(1, 4))
                file.write(json.dumps({"prompt": f"repeat {' '.join(words)}: ", "answer": " ".join(words)}) + "\n")
    return TaskSpec(name="causal_lm", data=str(path))


def byte_tokenizer(path: Path, tokens: int) -> int:
    """Write a tokenizer of bytes, which needs no training, into a model's folder; returns its number of tokens."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    special = ["<pad>", "<s>", "</s>"]
    vocabulary = {token: index for index, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer: Any = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    library: Any = transformers  # its tokenizers are made on request, which type checkers do not see
    library.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=special[0],
        bos_token=special[1],
        eos_token=special[2],
        model_max_length=tokens,
    ).save_pretrained(path)
    return len(vocabulary)


def language_backbone(folder: Path, name: str = "llama", tokens: int = 96, **sizes: int) -> BackboneSpec:
    """A Llama's configuration and a tokenizer of bytes, for random weights: by default a tiny one."""
    import transformers

    library: Any = transformers
    path = folder / name
    path.mkdir()
    defaults = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 32,
    }
    config = library.LlamaConfig(
        vocab_size=byte_tokenizer(path, tokens),
        max_position_embeddings=tokens,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **{**defaults, **sizes},
    )
    config.save_pretrained(path)
    return BackboneSpec(name=str(path), random_init=True)
