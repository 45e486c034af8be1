"""BERT for sentence pairs: a pretrained one, and one with random weights for the smoke tier.

An encoder is cut in two: a trunk that is frozen, and a top that is trained. The inputs of the top
are the same at every step, so that they are computed once, and training and influence computations
run the top alone.
"""

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from experiments.data import generated_pairs
from experiments.data.pairs import Pairs
from experiments.laboratory import data_folder
from experiments.laboratory.device import device
from experiments.laboratory.errors import UserError, quoted
from experiments.laboratory.runs import note
from experiments.laboratory.tensors import fits, sent
from methods.precision import full_precision
from methods.progress import track
from methods.randomness import initial_values
from methods.sources import Column

Labels = Literal[2, 3]
TRUNK_BATCH = 128  # pairs a pass through the frozen layers
TokenLists = tuple[list[list[int]], list[list[int]]]  # numbers of tokens, and of their sentences
Tokens = Callable[[Sequence[str], Sequence[str]], TokenLists]  # of premises and hypotheses


SHAPES: dict[str, dict[str, int]] = {  # of models that may not be at hand, beside BERT base's
    "bert-base-cased": {"vocab_size": 28_996},
    "models/all-MiniLM-L6-v2": {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "intermediate_size": 1_536,
    },
}


class Network(Protocol):
    """A frozen dataclass that describes an encoder and opens it."""

    def open(self) -> "Encoder": ...

    def shaped(self) -> "Encoder": ...

    def weights(self) -> str: ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class Bert:
    """A pretrained encoder of the BERT architecture, its embeddings and lower layers frozen.

    folder  a Hugging Face model folder, as a path or under the data folder, or a name on the hub
    frozen  number of lower layers that are not trained
    length  tokens of a pair, special ones included; longer pairs lose words of the longer sentence
    """

    folder: str = "models/all-MiniLM-L6-v2"
    frozen: int = 3
    length: int = 64

    def shaped(self) -> "Encoder":
        """An encoder of this shape without its weights; only its sizes mean anything."""
        from transformers import BertConfig, BertModel

        path = data_folder.model_folder(self.folder)
        known: dict[str, Any] = SHAPES.get(self.folder, SHAPES["bert-base-cased"])
        config = BertConfig(**known) if path is None else BertConfig.from_pretrained(path)
        with torch.device("meta"):
            model = BertModel(config)
        return Encoder(model, self.frozen, self.length, _no_tokens)

    def open(self) -> "Encoder":
        """Read tokenizer and weights; an error names what is missing."""
        where = self._where()
        tokenizer, model = self.read()
        layers = len(model.encoder.layer)
        if not 0 <= self.frozen < layers:
            raise UserError(
                f"{self.frozen} frozen layers of {layers} in {where}: choose from 0 to {layers - 1}"
            )
        if not 8 <= self.length <= model.config.max_position_embeddings:
            most = model.config.max_position_embeddings
            raise UserError(f"length is {self.length}: choose from 8 to {most}, the positions")
        _check_vocabulary(tokenizer, model, where)
        tokens = partial(_tokens, tokenizer, length=self.length)
        return Encoder(model, self.frozen, self.length, tokens)

    def read(self) -> tuple[Any, Any]:
        """The tokenizer and the whole model, as Hugging Face has them."""
        return _read(self._where())

    def weights(self) -> str:
        """A checksum of a local folder's weights, which detects that another model replaced it."""
        folder = Path(self._where())
        files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
        return " ".join(data_folder.checksum(file) for file in files) or "hub"

    def _where(self) -> str:
        path = data_folder.model_folder(self.folder)
        if path is None:
            return self.folder
        _check_folder(path)
        for file in sorted(path.glob("*.safetensors")):
            note("data", {f"{self.folder}/{file.name}": f"{file.stat().st_size} bytes"})
        return str(path)


@dataclass(frozen=True)
class Streamed:
    """A network whose frozen layers compute in bfloat16; their hidden states are on no disk."""

    network: "Bert | TinyBert" = Bert()
    precision: Literal["bfloat16"] = "bfloat16"

    def open(self) -> "Encoder":
        """The encoder, its frozen layers rounded."""
        return self.network.open().halved()

    def shaped(self) -> "Encoder":
        """An encoder of this shape without its weights."""
        return self.network.shaped()

    def weights(self) -> str:
        """The checksum of the network."""
        return self.network.weights()


@dataclass(frozen=True)
class TinyBert:
    """An encoder with random weights over the words of the generated language."""

    layers: int = 3
    width: int = 32
    frozen: int = 1
    length: int = 20
    seed: int = 0

    def shaped(self) -> "Encoder":
        """The encoder, which is small."""
        return self.open()

    def weights(self) -> str:
        """A constant: these settings determine the weights."""
        return "generated"

    def open(self) -> "Encoder":
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
        with initial_values(self.seed):
            model = BertModel(config)

        def tokens(premises: Sequence[str], hypotheses: Sequence[str]) -> TokenLists:
            ids, types = [], []
            for premise, hypothesis in zip(premises, hypotheses, strict=True):
                left, right = ([words[w] for w in text.split()] for text in (premise, hypothesis))
                ids.append([1, *left, 2, *right, 2][: self.length])
                types.append(([0] * (len(left) + 2) + [1] * (len(right) + 1))[: self.length])
            return ids, types

        return Encoder(model.eval(), self.frozen, self.length, tokens)


class Encoder:
    """A model of the BERT architecture with its tokenizer, cut into `trunk` and `top`."""

    def __init__(self, model: Any, frozen: int, length: int, tokens: Tokens) -> None:
        self.model, self.frozen, self.length, self._tokens = model, frozen, length, tokens
        self.model.requires_grad_(False)

    @property
    def width(self) -> int:
        return int(self.model.config.hidden_size)

    def to(self, device: torch.device) -> "Encoder":
        """This encoder, moved to a device."""
        self.model.to(device)
        return self

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the trunk."""
        weight: Tensor = self.model.embeddings.word_embeddings.weight
        return weight.dtype

    def halved(self) -> "Encoder":
        """This encoder with its trunk in bfloat16."""
        for part in (self.model.embeddings, *self.model.encoder.layer[: self.frozen]):
            part.bfloat16()
        return self

    def tokens(self, pairs: Pairs) -> dict[str, Tensor]:
        """ids, types (n, T) and length (n,); T is the longest pair, at most `length`."""
        ids, types = self._tokens(pairs.premise, pairs.hypothesis)
        lengths = torch.tensor([len(row) for row in ids])
        width = int(lengths.max())
        columns = {
            name: torch.tensor([[*row, *([0] * (width - len(row)))] for row in rows])
            for name, rows in (("ids", ids), ("types", types))
        }
        return {**columns, "length": lengths}

    def tuned(self, top: "Top", frozen: int) -> "Encoder":
        """This encoder with the weights of a trained top, and `frozen` layers frozen."""
        layers = len(self.model.encoder.layer)
        if not self.frozen <= frozen < layers:
            raise UserError(
                f"{frozen} frozen layers of {layers}, where {self.frozen} were frozen before: "
                f"choose from {self.frozen} to {layers - 1}"
            )
        for own, trained in zip(self.model.encoder.layer[self.frozen :], top.layers, strict=True):
            own.load_state_dict(trained.state_dict())
        self.model.pooler.load_state_dict(top.pooler.state_dict())
        return Encoder(self.model, frozen, self.length, self._tokens)

    @torch.no_grad()
    @full_precision()
    def trunk(self, tokens: dict[str, Tensor]) -> Tensor:
        """Hidden states that enter the first trained layer, (b, T, width), where the model is."""
        tokens = {name: column.to(self.model.device) for name, column in tokens.items()}
        hidden = self.model.embeddings(tokens["ids"], tokens["types"])
        bias = attention_bias(tokens["length"], hidden)
        for layer in self.model.encoder.layer[: self.frozen]:
            hidden = _layer(layer, hidden, bias, nn.Softmax(3))
        return hidden

    def top(self, num_labels: int, dropout: float, seed: int) -> "Top":
        """The trained layers with a new classifier drawn by the seed, in evaluation mode."""
        with initial_values(seed):
            classifier = nn.Linear(self.width, num_labels)
            nn.init.normal_(classifier.weight, std=self.model.config.initializer_range)
            nn.init.zeros_(classifier.bias)
        layers = deepcopy(self.model.encoder.layer[self.frozen :])
        top = Top(layers, deepcopy(self.model.pooler), classifier, dropout)
        return top.requires_grad_(True).eval()


class States(Column):
    """The hidden states of pairs (n, T, width), which `column[index]` gives on the device.

    T is that of the longest pair asked for; behind the last token of a pair are zeros. The states
    have the precision of the encoder. Where those of all pairs fit in the device's memory, they are
    computed once and kept there, without padding; elsewhere a pass through the frozen layers
    computes those that are asked for.
    """

    def __init__(self, encoder: Encoder, tokens: dict[str, Tensor], name: str) -> None:
        self.device, self.tokens, self.name = device(), tokens, name
        self.encoder, self.dtype = encoder.to(self.device), encoder.dtype
        self.length = tokens["length"]
        self.shape = (*tokens["ids"].shape, encoder.width)
        self.start = self.length.cumsum(0) - self.length  # of each pair among all tokens
        n = int(self.length.sum()) + 1
        fit = fits(n * encoder.width * self.dtype.itemsize, self.device)
        self.kept = self._all(n) if fit else None

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        rows = index.cpu() if isinstance(index, Tensor) else torch.arange(len(self))[index]
        if self.kept is None:
            return self._computed(rows)
        return self.kept[sent(self._places(rows), self.device)]

    def fingerprint(self) -> bytes:
        """What the states depend on: the settings of encoder and sample."""
        return self.name.encode()

    def _places(self, rows: Tensor) -> Tensor:
        """Where the tokens of pairs are kept, (b, T); those of padding have zeros, the last."""
        length = self.length[rows][:, None]
        token = torch.arange(int(length.max()) if len(rows) else 0)
        return torch.where(token < length, self.start[rows][:, None] + token, -1)

    def _computed(self, rows: Tensor) -> Tensor:
        length = self.length[rows]
        longest = int(length.max()) if len(rows) else 0
        batch = {name: self.tokens[name][rows, :longest].long() for name in ("ids", "types")}
        hidden = self.encoder.trunk({**batch, "length": length})
        real = torch.arange(longest) < length[:, None]
        return hidden * sent(real, self.device)[:, :, None]

    def _all(self, n: int) -> Tensor:
        """The states of all tokens, pair after pair, and a row of zeros: (n, width)."""
        kept = torch.zeros(n, self.encoder.width, dtype=self.dtype, device=self.device)
        for rows in track(list(self.length.argsort().split(TRUNK_BATCH)), "hidden states"):
            # Padding is zero and goes to the last row.
            kept[sent(self._places(rows), self.device)] = self._computed(rows)
        return kept


class Top(nn.Module):
    """The trained layers: hidden states to logits, as in BertForSequenceClassification.

    The pooler reads only the first token. So the last layer computes keys and values for all
    tokens, and the rest, ten twelfths of its weights, for the first one.
    """

    def __init__(
        self, layers: nn.ModuleList, pooler: nn.Module, classifier: nn.Linear, dropout: float
    ) -> None:
        super().__init__()
        self.layers, self.pooler, self.classifier = layers, pooler, classifier
        self.dropout = nn.Dropout(dropout)
        self.softmax = nn.Softmax(3)  # of attention: as a layer it can have tangents of its own
        for part in self.layers.modules():
            if isinstance(part, nn.Dropout):
                part.p = dropout

    def first(self, hidden: Tensor, length: Tensor) -> Tensor:
        """The first token of each pair after the last layer, the pooler's input, (b, width)."""
        hidden = hidden[:, : longest(length, hidden.shape[1])].to(self.classifier.weight.dtype)
        bias = attention_bias(length, hidden)
        for layer in self.layers[:-1]:
            hidden = _layer(layer, hidden, bias, self.softmax)
        return _layer(self.layers[-1], hidden, bias, self.softmax, first=1)[:, 0]

    def features(self, hidden: Tensor, length: Tensor) -> Tensor:
        """The classifier's input for each pair, (b, width)."""
        pooled: Tensor = self.pooler(self.first(hidden, length)[:, None])
        return pooled

    def forward(self, hidden: Tensor, length: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(self.features(hidden, length)))
        return logits


def _layer(
    layer: Any, hidden: Tensor, bias: Tensor, softmax: nn.Module, first: int | None = None
) -> Tensor:
    """One encoder layer at the `first` tokens, or all, with attention written out.

    The fused kernels have no second derivatives, forward over reverse.
    """
    own, attending = layer.attention.self, hidden[:, :first]
    heads = (own.num_attention_heads, own.attention_head_size)
    query, key, value = (
        linear(x).unflatten(2, heads).transpose(1, 2)
        for linear, x in ((own.query, attending), (own.key, hidden), (own.value, hidden))
    )
    weights = own.dropout(softmax(query @ key.mT * own.scaling + bias))
    attended = (weights @ value).transpose(1, 2).flatten(2)
    out: Tensor = layer.feed_forward_chunk(layer.attention.output(attended, attending))
    return out


def attention_bias(length: Tensor, hidden: Tensor) -> Tensor:
    """Zero at the tokens of each pair, the most negative number at its padding, (b, 1, 1, T)."""
    padding = torch.arange(hidden.shape[1], device=hidden.device) >= length[:, None]
    return padding.to(hidden.dtype)[:, None, None] * torch.finfo(hidden.dtype).min


def longest(length: Tensor, most: int) -> int:
    """Tokens of the longest pair of a batch: more need not be computed."""
    try:
        return int(length.max())
    except RuntimeError:  # under vmap shapes cannot depend on examples
        return most


def _no_tokens(premises: Sequence[str], hypotheses: Sequence[str]) -> TokenLists:
    raise UserError("an encoder without weights has no tokenizer: open() reads both")


def _read(where: str) -> tuple[Any, Any]:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    offline = Path(where).is_dir() or not data_folder.reachable(data_folder.HUGGING_FACE)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, local_files_only=offline)
        model = transformers.AutoModel.from_pretrained(where, local_files_only=offline)
    except Exception as error:  # the libraries raise errors of many kinds, with one remedy
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{where} is neither a local model folder nor a name on the hub ({first}): "
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
            f"{quoted(path)} is not a model folder, as it has no config.json with a "
            "model_type: copy a "
            "complete Hugging Face folder there (config.json, model.safetensors, tokenizer.json)"
        )
    if not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
        raise UserError(
            f"{quoted(path)} has a config.json but no weights: copy model.safetensors there"
        )


def _check_vocabulary(tokenizer: Any, model: Any, where: str) -> None:
    highest, size = max(tokenizer.get_vocab().values()), model.config.vocab_size
    if highest >= size or len(tokenizer) < size // 2:
        raise UserError(
            f"the tokenizer of {where} has {len(tokenizer):,} words, its model {size:,}: copy "
            "tokenizer.json and vocab.txt of the same model"
        )


def _tokens(
    tokenizer: Any, premises: Sequence[str], hypotheses: Sequence[str], length: int
) -> TokenLists:
    tokens = tokenizer(
        list(premises),
        list(hypotheses),
        truncation="longest_first",
        max_length=length,
        return_token_type_ids=True,
    )
    return tokens["input_ids"], tokens["token_type_ids"]
