"""BERT for sentence pairs: a pretrained one, and one with random weights for the smoke tier."""

import hashlib
import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from experiments.data import generated_pairs
from experiments.data.pairs import Pairs
from experiments.laboratory import data_folder
from experiments.laboratory.data_folder import reachable
from experiments.laboratory.errors import UserError
from experiments.laboratory.runs import note
from methods.randomness import Purpose, torch_seeds

# An encoder of the BERT architecture cut in two: a trunk that is frozen, a top that is trained.
#
# What enters the trained layers is the same at every step, so it is computed once; training and
# every influence computation then touch the top alone (experiments/hidden.py keeps it).


Tokens = Callable[[Sequence[str], Sequence[str]], tuple[list[list[int]], list[list[int]]]]
"""Premises and hypotheses to the numbers of their tokens, and which sentence each is of."""


class Encoder:
    """A pretrained model with the tokens of its pairs: `trunk` once, `top` to train."""

    def __init__(self, model: Any, frozen: int, length: int, tokens: Tokens) -> None:
        self.model, self.frozen, self.length, self._tokens = model, frozen, length, tokens
        self.model.requires_grad_(False)

    @property
    def width(self) -> int:
        return int(self.model.config.hidden_size)

    def tokens(self, pairs: Pairs) -> dict[str, Tensor]:
        """ids, types (n, T) and length (n,); T is the longest pair, at most `length`."""
        ids, types = self._tokens(pairs.premise, pairs.hypothesis)
        lengths = torch.tensor([len(one) for one in ids])
        width = int(lengths.max())
        padded = [[[*row, *([0] * (width - len(row)))] for row in of] for of in (ids, types)]
        return {"ids": torch.tensor(padded[0]), "types": torch.tensor(padded[1]), "length": lengths}

    def tuned(self, top: "Top", frozen: int) -> "Encoder":
        """This encoder with the layers of a trained top for its own, more of them frozen."""
        layers = len(self.model.encoder.layer)
        if not self.frozen <= frozen < layers:
            raise UserError(
                f"{frozen} frozen layers of {layers}, of which {self.frozen} were frozen before: "
                f"choose from {self.frozen} to {layers - 1}"
            )
        for own, trained in zip(self.model.encoder.layer[self.frozen :], top.layers, strict=True):
            own.load_state_dict(trained.state_dict())
        self.model.pooler.load_state_dict(top.pooler.state_dict())
        return Encoder(self.model, frozen, self.length, self._tokens)

    @torch.no_grad()
    def trunk(self, tokens: dict[str, Tensor]) -> Tensor:
        """Hidden states that enter the first trained layer, (b, T, width)."""
        hidden = self.model.embeddings(tokens["ids"], tokens["types"])
        bias = attention_bias(tokens["length"], hidden)
        for layer in self.model.encoder.layer[: self.frozen]:
            hidden = _layer(layer, hidden, bias, nn.Softmax(3))
        return hidden

    def top(self, num_labels: int, dropout: float, seed: int) -> "Top":
        """The trained layers with a new classifier, in evaluation mode; the seed draws that."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seeds(seed, Purpose.INITIAL)[0])
            classifier = nn.Linear(self.width, num_labels)
            nn.init.normal_(classifier.weight, std=self.model.config.initializer_range)
            nn.init.zeros_(classifier.bias)
        layers = deepcopy(self.model.encoder.layer[self.frozen :])
        top = Top(layers, deepcopy(self.model.pooler), classifier, dropout)
        return top.requires_grad_(True).eval()


class Top(nn.Module):
    """The trained layers: hidden states to logits, as BertForSequenceClassification has them.

    The pooler reads the first token alone, so the last layer computes no other: its keys and
    values are needed of all tokens, the rest of it, ten twelfths of its weights, of one.
    """

    def __init__(
        self, layers: nn.ModuleList, pooler: nn.Module, classifier: nn.Linear, dropout: float
    ) -> None:
        super().__init__()
        self.layers, self.pooler, self.classifier = layers, pooler, classifier
        self.dropout = nn.Dropout(dropout)
        self.weigh = nn.Softmax(3)  # of attention: a layer, so that its tangents can be its own
        for part in self.layers.modules():
            if isinstance(part, nn.Dropout):
                part.p = dropout

    def first(self, hidden: Tensor, length: Tensor) -> Tensor:
        """What the pooler sees of each pair: its first token after the last layer, (b, width)."""
        hidden = hidden[:, : longest(length, hidden.shape[1])]
        bias = attention_bias(length, hidden)
        for layer in self.layers[:-1]:
            hidden = _layer(layer, hidden, bias, self.weigh)
        return _layer(self.layers[-1], hidden, bias, self.weigh, first=1)[:, 0]

    def features(self, hidden: Tensor, length: Tensor) -> Tensor:
        """What the classifier sees of each pair, (b, width)."""
        pooled: Tensor = self.pooler(self.first(hidden, length)[:, None])
        return pooled

    def forward(self, hidden: Tensor, length: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(self.features(hidden, length)))
        return logits


def _layer(
    layer: Any, hidden: Tensor, bias: Tensor, weigh: nn.Module, first: int | None = None
) -> Tensor:
    """One encoder layer at the `first` tokens, or all, by attention written out.

    Second derivatives, forward over reverse, do not exist for the fused kernels.
    """
    own, asked = layer.attention.self, hidden[:, :first]
    heads = (own.num_attention_heads, own.attention_head_size)
    query, key, value = (
        linear(of).unflatten(2, heads).transpose(1, 2)
        for linear, of in ((own.query, asked), (own.key, hidden), (own.value, hidden))
    )
    weights = own.dropout(weigh(query @ key.mT * own.scaling + bias))
    met = (weights @ value).transpose(1, 2).flatten(2)
    out: Tensor = layer.feed_forward_chunk(layer.attention.output(met, asked))
    return out


def attention_bias(length: Tensor, hidden: Tensor) -> Tensor:
    """Zero at the tokens of each pair, and as good as minus infinity behind, (b, 1, 1, T)."""
    behind = torch.arange(hidden.shape[1], device=hidden.device) >= length[:, None]
    return behind.to(hidden.dtype)[:, None, None] * torch.finfo(hidden.dtype).min


def longest(length: Tensor, most: int) -> int:
    """Tokens of the longest pair of a batch: what is behind it need not be computed."""
    try:
        return int(length.max())
    except RuntimeError:  # under vmap no shape can depend on an example
        return most


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
        for path in (data_folder.root() / self.folder, Path(self.folder)):
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
            word: i
            for i, word in enumerate(["[PAD]", "[CLS]", "[SEP]", *generated_pairs.vocabulary()])
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
