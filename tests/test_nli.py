"""Sentence pairs, the cut of BERT in trunk and top, and classifiers made of them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.func import grad, jvp

from experiments import hidden, nli_models, nli_points
from experiments.data import grammar, hans, mnli
from experiments.data.pairs import THREE, TWO
from experiments.hidden import Hidden, Sample
from experiments.models import bert
from experiments.models.bert import Bert, TinyBert
from experiments.nli_curvature import Plan, curvature
from experiments.nli_models import SMOKE, Simulator, Tuned, cross_entropy, trained
from experiments.plans import AdamW, Decayed, Grouped
from experiments.problems import UserError
from experiments.runs import key
from methods.gradients import Gradients
from methods.operators import Hessian
from methods.randomness import numpy_generator
from methods.task import Task

QUICK = replace(SMOKE, fit=replace(SMOKE.fit, epochs=2, every=2), train=replace(SMOKE.train, n=60))
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
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *grammar.vocabulary()]
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
    pairs = grammar.mnli(12, 0)
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
    found = top(examples["hidden"], examples["length"])
    torch.testing.assert_close(found, wanted)


def test_gradients_of_the_top_are_those_of_the_whole_model(store):
    encoder, tokens, top, examples = both_halves(TinyBert(frozen=1), torch.float64)
    task = Task.of(top, cross_entropy)
    found = grad(lambda p: task.loss(p, examples).mean())(task.params)
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
            torch.testing.assert_close(found[f"layers.{number}.{name}"], value.grad)


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
    first, pairs = hidden.column(TinyBert(), DEV)
    monkeypatch.setattr(hidden, "_compute", None)
    again, _ = hidden.column(TinyBert(), DEV)
    assert len(pairs) == 40
    for name in ("hidden", "length", "label"):
        torch.testing.assert_close(first[name], again[name])
    assert not again["hidden"].numpy().flags.owndata  # of the file, not of this process


def test_other_weights_in_the_same_folder_are_noticed(store):
    folder = hugging_face(store / "bert")
    hidden.column(Bert(str(folder), 1, 20), DEV)
    shutil.rmtree(folder)
    hugging_face(folder, intermediate_size=20)
    with pytest.raises(UserError, match="computed with other weights"):
        hidden.column(Bert(str(folder), 1, 20), DEV)


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
    ("name", "said"),
    [
        ("no config", "is not a model folder: it has no config.json"),
        ("no weights", "has a config.json and no weights"),
        ("another architecture", "is a distilbert model|neither a model folder"),
        ("another vocabulary", "the tokenizer of .* they are of different models"),
    ],
)
def test_a_folder_that_is_no_bert_is_one_line(store, name, said):
    with pytest.raises(UserError, match=said):
        Bert(str(broken(store, name)), 1, 20).open()


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ({"frozen": 3}, "3 frozen layers of 3.*from 0 to 2"),
        ({"frozen": -1}, "-1 frozen layers"),
        ({"length": 4}, "length is 4: choose from 8 to"),
    ],
)
def test_a_cut_that_cannot_be_is_one_line(store, network, said):
    folder = hugging_face(store / "bert")
    with pytest.raises(UserError, match=said):
        replace(Bert(str(folder), 1, 20), **network).open()


def test_a_name_that_is_nowhere_is_one_line(monkeypatch):
    monkeypatch.setattr(bert, "reachable", lambda _: False)
    with pytest.raises(UserError, match="neither a model folder here nor a name"):
        Bert("nobody/no-such-model").open()


def test_pairs_of_two_labels_do_not_fit_a_model_of_three():
    with pytest.raises(UserError, match="entailment, non-entailment, the model 3: set labels to 2"):
        nli_models.load(QUICK, Sample("hans evaluation", "generated", 30))


def test_a_trained_model_comes_back_with_its_numbers_and_fits_its_data():
    first, again = trained(SMOKE), trained(SMOKE)
    assert first.metrics["accuracy_train"] > 0.7
    assert first.task.weight_decay == SMOKE.fit.weight_decay
    for name, value in first.task.params.items():
        assert torch.equal(value, again.task.params[name])


def test_a_simulator_is_trained_on_the_predictions_of_its_task_model():
    simulator = trained(Simulator(QUICK))
    run = nli_models.passed(QUICK, QUICK.train)
    predicted = np.asarray(run.array("logits")).argmax(1)
    assert torch.equal(simulator.train["label"], torch.from_numpy(predicted))
    assert (simulator.pairs.label == predicted).all()


def test_a_tuned_trunk_goes_on_where_training_ended():
    first = trained(QUICK)
    tuned = Tuned(QUICK.network, QUICK.train, 3, QUICK.fit, QUICK.dropout, QUICK.seed, frozen=2)
    examples, _ = hidden.column(tuned, DEV)
    top = tuned.open().top(3, dropout=0.1, seed=0).requires_grad_(False)
    assert len(top.layers) == 1
    top.classifier.load_state_dict(first.module.classifier.state_dict())
    torch.testing.assert_close(
        nli_models.logits(top, examples),
        nli_models.logits(first.module, hidden.column(QUICK.network, DEV)[0]),
    )
    again = trained(replace(QUICK, network=tuned, seed=3))
    assert again.task.size < first.task.size
    with pytest.raises(UserError, match="0 frozen layers of 3, of which 1 were frozen before"):
        replace(tuned, frozen=0).open()


def test_points_are_half_right_and_half_wrong():
    index = nli_points.balanced(QUICK, DEV, 8)
    _, right = nli_points.predicted(QUICK, DEV)
    assert right[index].tolist() == [True] * 4 + [False] * 4
    assert len(set(index.tolist())) == 8
    with pytest.raises(UserError, match="that are predicted"):
        nli_points.balanced(QUICK, DEV, 80)


def test_wrong_pairs_are_of_the_slice_and_wrong():
    two = replace(QUICK, labels=2)
    traps = Sample("hans evaluation", "generated", 90)
    index = nli_points.wrong(two, traps, 5, "subsequence")
    _, pairs = nli_models.load(two, traps)
    _, right = nli_points.predicted(two, traps)
    assert set(pairs.part[index]) == {"subsequence"}
    assert not right[index].any()
    with pytest.raises(UserError, match="wrongly predicted pairs of nothing"):
        nli_points.wrong(two, traps, 1, "nothing")


def test_the_damping_makes_the_hessian_positive_definite():
    there, found = trained(QUICK), curvature(QUICK).metrics
    dense = Hessian(there.task, there.train, damping=found["damping"])
    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(8, there.task.size, generator=draw)
    assert found["lowest"] < 0 < found["largest"]
    assert ((dense.apply(vectors) * vectors).sum(1) > 0).all()


def test_a_plan_fills_in_only_what_is_left_out():
    given = Plan(5, depth=7, sample=2, damping=3.0, scale=50.0).settle(QUICK)
    assert (given.k, given.lissa.depth, given.lissa.scale, given.damping) == (5, 7, 50.0, 3.0)
    by_rule = Plan(5).settle(QUICK)
    left = (1 - by_rule.damping / by_rule.lissa.scale) ** by_rule.lissa.depth
    assert left < 0.06
    assert by_rule.damping == curvature(QUICK).metrics["damping"]


def test_samples_depend_on_their_settings_alone_and_are_their_key():
    one, other = (Sample("hans train", "generated", 30).load() for _ in range(2))
    assert one.premise == other.premise
    assert key(Hidden(TinyBert(), Sample(n=3))) != key(Hidden(TinyBert(), Sample(n=4)))
    with pytest.raises(UserError, match="need a number"):
        Sample("mnli dev", "generated").load()


def test_two_labels_join_neutral_and_contradiction():
    pairs = grammar.mnli(30, 0)
    two = pairs.two_way()
    assert (pairs.classes, two.classes) == (THREE, TWO)
    np.testing.assert_array_equal(two.label == 0, pairs.label == 0)
    assert two.two_way() is two


def test_final_stops_go_and_other_words_stay():
    pairs = grammar.mnli(1, 0)
    pairs = replace(pairs, premise=["It is so. "], hypothesis=["Mr. X did ."])
    assert pairs.without_stops().premise == ["It is so"]
    assert pairs.without_stops().hypothesis == ["Mr. X did"]


def test_traps_have_full_overlap_and_both_labels():
    pairs = grammar.hans(60, 0)
    for premise, hypothesis in zip(pairs.premise, pairs.hypothesis, strict=True):
        assert set(hypothesis.split()) <= set(premise.split())
    assert sorted(set(pairs.part)) == sorted(hans.SLICES)
    assert pairs.label.mean() == 0.5


def write(folder, lines):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "multinli_1.0_train.subset.jsonl"
    path.write_text("\n".join(lines))
    return path


GOOD = json.dumps({"gold_label": "neutral", "sentence1": "a", "sentence2": "b"})


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([GOOD, "{"], "line 2, is not a pair"),
        ([GOOD.replace("neutral", "maybe")], "line 1, has the label 'maybe'"),
        ([GOOD], r"has 1 of 12,808 labelled pairs"),
    ],
)
def test_a_file_that_is_not_multinli_is_one_line(store, lines, said):
    write(store / "data" / "multinli", lines)
    with pytest.raises(UserError, match=said):
        mnli.load("subset", "train")


def test_missing_data_names_file_and_place(monkeypatch):
    with pytest.raises(UserError, match=r"subset.jsonl is not in .*multinli"):
        mnli.load("subset", "train")
    for module in (mnli, hans):
        monkeypatch.setattr(module, "reachable", lambda _: False)
    with pytest.raises(UserError, match=r"neither in .*multinli_1.0 nor in"):
        mnli.load("whole", "train")
    with pytest.raises(UserError, match=r"heuristics_train_set.txt is neither in"):
        hans.load("train")


def test_a_hans_file_without_its_columns_is_one_line(store):
    folder = store / "data" / "hans_regenerated"
    folder.mkdir(parents=True)
    (folder / "heuristics_train_set.txt").write_text("gold_label\tsentence1\n")
    with pytest.raises(UserError, match="has no column sentence2"):
        hans.load("train")
    assert hans.regenerated("train")


def test_grouped_batches_take_every_example_once_and_pad_little():
    draw = numpy_generator(0, "lengths")
    length = torch.from_numpy(draw.integers(5, 60, 640))
    train = {"length": length}
    batches = Grouped(batch_size=16, pool=10).batches(train, numpy_generator(0, "order"))
    assert sorted(torch.cat(batches).tolist()) == list(range(640))
    padded = sum(int(length[b].max()) * len(b) for b in batches)
    assert padded < 1.15 * int(length.sum())
    again = Grouped(batch_size=16, pool=10).batches(train, numpy_generator(0, "order"))
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))


def test_a_decayed_rate_falls_linearly_to_zero():
    plan = Decayed(epochs=4, lr=0.8, adam=AdamW())
    assert [plan.rate(epoch) for epoch in (0, 1, 2.5, 4)] == pytest.approx([0.8, 0.6, 0.3, 0.0])
