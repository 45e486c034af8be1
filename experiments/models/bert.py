"""BERT for sentence pairs: a pretrained one, and one with random weights for the smoke tier."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from experiments.data import grammar, place
from experiments.data.download import reachable
from experiments.models.encoder import Encoder
from experiments.problems import UserError
from experiments.runs import note
from experiments.seeds import Purpose, torch_seeds

SERVER = "https://huggingface.co"


@dataclass(frozen=True)
class Bert:
    """A pretrained encoder of the BERT architecture, its embeddings and lower layers frozen.

    folder  a Hugging Face model folder, as a path or under the data folder, or a name on the hub
    frozen  lower layers that are not trained
    length  tokens of a pair, special ones included; longer pairs lose words of the longer sentence
    """

    folder: str = "models/all-MiniLM-L6-v2"
    frozen: int = 3
    length: int = 64

    def open(self) -> Encoder:
        """Read tokenizer and weights; a clear error names what is missing."""
        where = self._found()
        tokenizer, model = _read(where)
        layers = len(model.encoder.layer)
        if not 0 <= self.frozen < layers:
            raise UserError(
                f"{self.frozen} frozen layers of {layers} in {where}: choose from 0 to {layers - 1}"
            )
        if not 8 <= self.length <= model.config.max_position_embeddings:
            most = model.config.max_position_embeddings
            raise UserError(f"length is {self.length}: choose from 8 to {most}, the positions")
        _check_vocabulary(tokenizer, model, where)
        return Encoder(model, self.frozen, self.length, lambda p, h: _tokens(tokenizer, p, h, self))

    def weights(self) -> str:
        """A checksum of a local folder's weights, lest another model in its place go unnoticed."""
        folder = Path(self._found())
        files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
        return " ".join(_checksum(str(file), file.stat().st_mtime_ns) for file in files) or "hub"

    def _found(self) -> str:
        for path in (place.root() / self.folder, Path(self.folder)):
            if path.is_dir():
                _check_folder(path)
                for file in sorted(path.glob("*.safetensors")):
                    note("data", {f"{self.folder}/{file.name}": f"{file.stat().st_size} bytes"})
                return str(path)
        return self.folder


@dataclass(frozen=True)
class TinyBert:
    """The same architecture with random weights, over the words of the generated language."""

    layers: int = 3
    width: int = 32
    frozen: int = 1
    length: int = 20
    seed: int = 0

    def weights(self) -> str:
        """They follow from these settings."""
        return "generated"

    def open(self) -> Encoder:
        """Draw the weights."""
        from transformers import BertConfig, BertModel

        words = {
            word: i for i, word in enumerate(["[PAD]", "[CLS]", "[SEP]", *grammar.vocabulary()])
        }
        config = BertConfig(
            vocab_size=len(words),
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=4,
            intermediate_size=2 * self.width,
            max_position_embeddings=self.length,
            initializer_range=0.1,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seeds(self.seed, Purpose.INITIAL)[0])
            model = BertModel(config)

        def tokens(
            premise: Sequence[str], hypothesis: Sequence[str]
        ) -> tuple[list[list[int]], list[list[int]]]:
            ids, types = [], []
            for one, other in zip(premise, hypothesis, strict=True):
                left, right = ([words[w] for w in text.split()] for text in (one, other))
                ids.append([1, *left, 2, *right, 2][: self.length])
                types.append(([0] * (len(left) + 2) + [1] * (len(right) + 1))[: self.length])
            return ids, types

        return Encoder(model.eval(), self.frozen, self.length, tokens)


@cache
def _checksum(path: str, _changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _read(where: str) -> tuple[Any, Any]:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    offline = Path(where).is_dir() or not reachable(SERVER)  # else it retries for a minute
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, local_files_only=offline)
        model = transformers.AutoModel.from_pretrained(where, local_files_only=offline)
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"{where} is neither a model folder here nor a name that could be fetched ({first}): "
            "put the folder (config.json, model.safetensors, tokenizer.json) under --data DIR or "
            "RETRACE_DATA=DIR, or give its path"
        ) from error
    if model.config.model_type != "bert":
        raise UserError(
            f"{where} is a {model.config.model_type} model: give one of the BERT architecture"
        )
    return tokenizer, model.float().eval()


def _check_folder(path: Path) -> None:
    try:
        config = json.loads((path / "config.json").read_text())
        known = "model_type" in config
    except (OSError, ValueError):
        known = False
    if not known:
        raise UserError(
            f"{path} is not a model folder: it has no config.json with a model_type; copy a whole "
            "Hugging Face folder there (config.json, model.safetensors, tokenizer.json)"
        )
    if not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
        raise UserError(f"{path} has a config.json and no weights: copy model.safetensors there")


def _check_vocabulary(tokenizer: Any, model: Any, where: str) -> None:
    highest, size = max(tokenizer.get_vocab().values()), model.config.vocab_size
    if highest >= size or len(tokenizer) < size // 2:
        raise UserError(
            f"the tokenizer of {where} has {len(tokenizer):,} words, its model {size:,}: they are "
            "of different models; copy tokenizer.json and vocab.txt of the same one"
        )


def _tokens(
    tokenizer: Any, premise: Sequence[str], hypothesis: Sequence[str], plan: Bert
) -> tuple[list[list[int]], list[list[int]]]:
    found = tokenizer(
        list(premise),
        list(hypothesis),
        truncation="longest_first",
        max_length=plan.length,
        return_token_type_ids=True,
    )
    return found["input_ids"], found["token_type_ids"]


class Network(Protocol):
    """What hidden states can be computed with: a frozen dataclass."""

    def open(self) -> Encoder: ...

    def weights(self) -> str: ...


Labels = Literal[2, 3]
