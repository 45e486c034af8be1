"""BERT cut in trunk and top, the hidden states between them, and folders that are no BERT."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch.func import grad, jvp

from experiments.data import generated_pairs
from experiments.laboratory import data_folder
from experiments.laboratory.errors import UserError
from experiments.models.bert import Bert, TinyBert
from experiments.pairs import models
from experiments.pairs.models import Sample, cross_entropy
from methods.curvature.operators import Hessian
from methods.rows.gradients import Gradients
from methods.task import Task

DEV = Sample("mnli dev", "generated", 40)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("RETRACE_DATA", str(tmp_path / "data"))
    return tmp_path


def hugging_face(folder, **changes):
    """A whole model folder of the BERT architecture, with a tokenizer of its own words."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *generated_pairs.vocabulary()]
    (folder / "vocab.txt").write_text("\n".join(words))
    shape = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = BertConfig(
        **{"vocab_size": len(words), **shape, "intermediate_size": 24, **changes},
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def both_halves(network, dtype):
    """Examples of the trunk's hidden states, and the top, in one precision."""
    encoder = network.open()
    encoder.model.to(dtype)
    pairs = generated_pairs.mnli(12, 0)
    tokens = encoder.tokens(pairs)
    top = encoder.top(3, dropout=0.1, seed=0).to(dtype).requires_grad_(False)
    examples = {
        "hidden": encoder.trunk(tokens),
        "length": tokens["length"],
        "label": torch.from_numpy(pairs.label),
    }
    return encoder, tokens, top, examples


@pytest.mark.parametrize("frozen", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_trunk_and_top_give_the_logits_of_the_whole_model(store, frozen, dtype):
    folder = hugging_face(store / "bert")
    encoder, tokens, top, examples = both_halves(Bert(str(folder), frozen, 20), dtype)
    mask = torch.arange(tokens["ids"].shape[1]) < tokens["length"][:, None]
    whole = encoder.model(
        input_ids=tokens["ids"], token_type_ids=tokens["types"], attention_mask=mask.long()
    )
    wanted = top.classifier(whole.pooler_output)
    result = top(examples["hidden"], examples["length"])
    torch.testing.assert_close(result, wanted)


def test_gradients_of_the_top_are_those_of_the_whole_model(store):
    encoder, tokens, top, examples = both_halves(TinyBert(frozen=1), torch.float64)
    task = Task.of(top, cross_entropy)
    result = grad(lambda p: task.loss(p, examples).mean())(task.params)
    layers = encoder.model.encoder.layer
    for layer, mine in zip(layers[1:], top.layers, strict=True):
        for name, value in mine.state_dict().items():
            layer.state_dict()[name].copy_(value)
    encoder.model.requires_grad_(True)
    mask = torch.arange(tokens["ids"].shape[1]) < tokens["length"][:, None]
    out = encoder.model(
        input_ids=tokens["ids"], token_type_ids=tokens["types"], attention_mask=mask.long()
    )
    logits = top.classifier(out.pooler_output)
    torch.nn.functional.cross_entropy(logits, examples["label"]).backward()
    for number, layer in enumerate(layers[1:]):
        for name, value in layer.named_parameters():
            torch.testing.assert_close(result[f"layers.{number}.{name}"], value.grad)


def test_padding_changes_no_number():
    _, _, top, examples = both_halves(TinyBert(), torch.float64)
    wider = torch.nn.functional.pad(examples["hidden"], (0, 0, 0, 5), value=7.0)
    torch.testing.assert_close(
        top(wider, examples["length"]), top(examples["hidden"], examples["length"])
    )


def test_every_gradient_of_the_top_stays_factored_and_its_hessian_is_right():
    _, _, top, examples = both_halves(TinyBert(), torch.float64)
    task = Task.of(top, cross_entropy)
    gradients = Gradients(task, task.loss)
    rows = gradients.rows(examples).dense()
    assert gradients.fallback == ()
    total = grad(lambda p: task.loss(p, examples).mean())
    torch.testing.assert_close(rows.mean(0), task.flatten(total(task.params)))
    v = torch.randn(task.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    product = Hessian(task, examples) @ v
    step = 1e-5 * v
    moved = [
        task.flatten(
            total(
                {
                    n: p + s * d
                    for (n, p), d in zip(
                        task.params.items(), task.unflatten(step).values(), strict=True
                    )
                }
            )
        )
        for s in (1, -1)
    ]
    torch.testing.assert_close(product, (moved[0] - moved[1]) / 2e-5, rtol=1e-5, atol=1e-8)
    assert jvp(total, (task.params,), (task.unflatten(v),))[1].keys() == task.params.keys()


def test_hidden_states_are_computed_once_and_mapped(monkeypatch):
    first, pairs = models.column(TinyBert(), DEV)
    monkeypatch.setattr(models, "_hidden_states", None)
    again, _ = models.column(TinyBert(), DEV)
    assert len(pairs) == 40
    for name in ("hidden", "length", "label"):
        torch.testing.assert_close(first[name], again[name])
    assert not again["hidden"].numpy().flags.owndata  # of the file, not of this process


def test_other_weights_in_the_same_folder_are_noticed(store):
    folder = hugging_face(store / "bert")
    models.column(Bert(str(folder), 1, 20), DEV)
    shutil.rmtree(folder)
    hugging_face(folder, intermediate_size=20)
    with pytest.raises(UserError, match="computed with other weights"):
        models.column(Bert(str(folder), 1, 20), DEV)


def broken(store, name):
    """A model folder with one thing wrong."""
    folder = hugging_face(store / "bert")
    if name == "no config":
        (folder / "config.json").unlink()
    elif name == "no weights":
        (folder / "model.safetensors").unlink()
    elif name == "another architecture":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "distilbert"}))
    elif name == "another vocabulary":
        smaller = hugging_face(store / "small", vocab_size=9)
        shutil.copy(smaller / "model.safetensors", folder)
        shutil.copy(smaller / "config.json", folder)
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no config", "is not a model folder, as it has no config.json"),
        ("no weights", "has a config.json but no weights"),
        ("another architecture", "is a distilbert model|neither a local model folder"),
        ("another vocabulary", "the tokenizer of .* of the same model"),
    ],
)
def test_a_folder_that_is_no_bert_is_one_line(store, name, message):
    with pytest.raises(UserError, match=message):
        Bert(str(broken(store, name)), 1, 20).open()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"frozen": 3}, "3 frozen layers of 3.*from 0 to 2"),
        ({"frozen": -1}, "-1 frozen layers"),
        ({"length": 4}, "length is 4: choose from 8 to"),
    ],
)
def test_a_cut_that_cannot_be_is_one_line(store, network, message):
    folder = hugging_face(store / "bert")
    with pytest.raises(UserError, match=message):
        replace(Bert(str(folder), 1, 20), **network).open()


def test_a_name_that_is_nowhere_is_one_line(monkeypatch):
    monkeypatch.setattr(data_folder, "reachable", lambda *_: False)
    with pytest.raises(UserError, match="neither a local model folder nor a name"):
        Bert("nobody/no-such-model").open()
