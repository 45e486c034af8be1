"""BERT for sentence pairs, cut in two: a trunk that is never trained, and the layers above it.

What enters the trained layers is the same at every step, so it is computed once; training and
every influence computation then touch the top alone (experiments/hidden.py keeps it).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from experiments.data import grammar, place
from experiments.data.download import reachable
from experiments.data.pairs import Pairs
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

    def open(self) -> "Encoder":
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

    def open(self) -> "Encoder":
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

        def tokens(premise: Sequence[str], hypothesis: Sequence[str]) -> tuple[list, list]:
            ids, types = [], []
            for one, other in zip(premise, hypothesis, strict=True):
                left, right = ([words[w] for w in text.split()] for text in (one, other))
                ids.append([1, *left, 2, *right, 2][: self.length])
                types.append(([0] * (len(left) + 2) + [1] * (len(right) + 1))[: self.length])
            return ids, types

        return Encoder(model.eval(), self.frozen, self.length, tokens)


class Encoder:
    """A pretrained model with the tokens of its pairs: `trunk` once, `top` to train."""

    def __init__(self, model: Any, frozen: int, length: int, tokens: Any) -> None:
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

    @torch.no_grad()
    def trunk(self, tokens: dict[str, Tensor]) -> Tensor:
        """Hidden states that enter the first trained layer, (b, T, width)."""
        hidden = self.model.embeddings(tokens["ids"], tokens["types"])
        bias = attention_bias(tokens["length"], hidden)
        for layer in self.model.encoder.layer[: self.frozen]:
            hidden = _layer(layer, hidden, bias)
        return hidden

    def top(self, num_labels: int, dropout: float, seed: int) -> "Top":
        """The trained layers with a new classifier, in evaluation mode; the seed draws that."""
        from copy import deepcopy

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
        for part in self.layers.modules():
            if isinstance(part, nn.Dropout):
                part.p = dropout

    def features(self, hidden: Tensor, length: Tensor) -> Tensor:
        """What the classifier sees of each pair, (b, width)."""
        hidden = hidden[:, : longest(length, hidden.shape[1])]
        bias = attention_bias(length, hidden)
        for layer in self.layers[:-1]:
            hidden = _layer(layer, hidden, bias)
        pooled: Tensor = self.pooler(_layer(self.layers[-1], hidden, bias, first=1))
        return pooled

    def forward(self, hidden: Tensor, length: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(self.features(hidden, length)))
        return logits


def _layer(layer: Any, hidden: Tensor, bias: Tensor, first: int | None = None) -> Tensor:
    """One encoder layer at the `first` tokens, or all, by attention written out.

    Second derivatives, forward over reverse, do not exist for the fused kernels.
    """
    own, asked = layer.attention.self, hidden[:, :first]
    heads = (own.num_attention_heads, own.attention_head_size)
    query, key, value = (
        linear(of).unflatten(2, heads).transpose(1, 2)
        for linear, of in ((own.query, asked), (own.key, hidden), (own.value, hidden))
    )
    weights = own.dropout((query @ key.mT * own.scaling + bias).softmax(3))
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


Network = Bert | TinyBert
Labels = Literal[2, 3]
