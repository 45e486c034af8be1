"""Translation: subwords, the network and its rows, decoding, BLEU."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.data.parallel import Corpus, Pairs
from experiments.laboratory import runs
from experiments.laboratory.errors import UserError
from experiments.models.transformer import Transformer, TranslationLoss
from experiments.training.plans import Warmed
from experiments.translation import models
from experiments.translation.models import (
    FIRST,
    LAST,
    PADDING,
    SMOKE,
    Beam,
    Language,
    Subwords,
    examples,
    trained,
    translate,
    translated,
)
from experiments.translation.models import Translated as Asked
from methods.curvature.operators import Hessian
from methods.examples import take
from methods.rows.gradients import Gradients
from methods.task import Task
from tests.methods import networks

TINY = Transformer(width=8, heads=2, layers=2, inner=12, longest=16)
WORDS = 13
TINIEST = replace(
    SMOKE,
    network=replace(SMOKE.network, width=16, inner=16, layers=1),
    train=Corpus("generated", 0, 64),
    fit=replace(SMOKE.fit, epochs=2, every=1),
)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_DATA", str(tmp_path))
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))


# --- subwords ------------------------------------------------------------------------------------


def test_subwords_give_sentences_back_and_are_learnt_once():
    asked = Subwords(Corpus("generated"), 300)
    words = Language(asked).open()
    text = Corpus("generated", 0, 5).load().source
    every, known = np.arange(5), words.encode(text)
    rows = known.padded(every, 40, LAST, FIRST)
    assert rows.dtype == np.int16
    assert set(rows[:, 0]) == {FIRST}
    assert words.decode(row[1:] for row in rows) == text
    assert len(words) <= 300
    assert Language(asked).open() is words
    cut = known.padded(every, 5, LAST, FIRST)
    assert cut.shape == (5, 5)
    assert set(cut[:, -1]) == {LAST}
    with pytest.raises(UserError, match="5 subwords: give 100"):
        Language(Subwords(Corpus("generated"), 5)).open()


def test_a_length_or_network_that_cannot_be_is_one_line():
    with pytest.raises(UserError, match="length is 2: give 4 or more"):
        examples(replace(SMOKE, language=replace(SMOKE.language, length=2)), Pairs(["a"], ["b"]))
    longer = replace(SMOKE, language=Language(SMOKE.language.subwords, 90))
    with pytest.raises(
        UserError, match="sentences of 90 subwords, but the network has 64 positions"
    ):
        longer.build()
    with pytest.raises(UserError, match="width 10 with 4 heads"):
        Transformer(10, 4).build(9, 0)
    with pytest.raises(UserError, match="3 of 2 decoder layers: give 1 to 2"):
        TINY.last_layers(3)


# --- the network ---------------------------------------------------------------------------------


def batch(n: int = 5, width: int = 6):
    """Sentences of different lengths, the first of each side the longest."""
    draw = torch.Generator().manual_seed(0)
    out = {}
    for name in ("source", "target"):
        words = torch.randint(4, WORDS, (n, width), generator=draw)
        lengths = torch.tensor([width - i % (width - 3) for i in range(n)])
        words[torch.arange(width) >= lengths[:, None]] = PADDING
        out[name] = words
    return out


def task(smoothing: float = 0.1) -> Task:
    return Task.of(TINY.build(WORDS, 0).double(), TranslationLoss(smoothing))


def gradient(of: Task, params, some) -> torch.Tensor:
    """Autograd's gradient of the mean loss, (p,)."""
    params = {n: v.detach().requires_grad_() for n, v in params.items()}
    grads = torch.autograd.grad(of.loss(params, some).mean(), list(params.values()))
    return torch.cat([g.flatten() for g in grads])


def test_rows_of_every_parameter_are_factored_and_equal_autograd():
    of, some = task(), batch()
    source = Gradients(of, of.loss)
    rows = source.rows(some)
    expected = torch.stack([gradient(of, of.params, take(some, slice(i, i + 1))) for i in range(5)])
    torch.testing.assert_close(rows.dense(), expected, rtol=1e-9, atol=1e-11)
    assert source.fallback == ()
    assert source.unproven == ()
    assert "words.weight" in of.params
    assert "head.weight" not in of.params  # one matrix
    norms = expected.square().sum(1)
    torch.testing.assert_close(rows.squared_norms(), norms, rtol=1e-9, atol=0)


def test_hessian_products_are_symmetric_and_equal_finite_differences():
    of, some = task(), batch(3)
    hessian = Hessian(of, some)
    one, other = torch.nn.functional.normalize(networks.normal(2, of.size, seed=1), dim=1)
    product = hessian.apply(one[None])[0]
    assert product @ other == pytest.approx(float(hessian.apply(other[None])[0] @ one), rel=1e-8)

    ahead, behind = (
        gradient(of, of.unflatten(of.flatten(of.params) + step * one), some)
        for step in (1e-5, -1e-5)
    )
    expected = (ahead - behind) / 2e-5
    torch.testing.assert_close(product, expected, rtol=1e-5, atol=1e-7)


def test_padding_changes_nothing():
    of, some = task(), batch()
    wider = {name: torch.nn.functional.pad(words, (0, 4)) for name, words in some.items()}
    torch.testing.assert_close(of.loss(of.params, wider), of.loss(of.params, some))
    alone = torch.cat([of.loss(of.params, take(some, slice(i, i + 1))) for i in range(5)])
    torch.testing.assert_close(of.loss(of.params, some), alone)


def test_a_word_is_predicted_from_those_before_it_alone():
    net, some = TINY.build(WORDS, 0), batch(2)
    before = net(some["source"], some["target"])
    later = some["target"].clone()
    later[:, 3] = 5
    after = net(some["source"], later)
    torch.testing.assert_close(after[:, :3], before[:, :3])
    assert not torch.allclose(after[:, 3:], before[:, 3:])


def test_the_loss_is_the_smoothed_likelihood_a_subword():
    net, some = TINY.build(WORDS, 0), batch(1)
    logits = net(some["source"], some["target"][:, :-1])[0].log_softmax(1)
    wanted = some["target"][0, 1:]
    likely = logits[torch.arange(len(wanted)), wanted]
    expected = -(0.9 * likely + 0.1 * logits.mean(1)).mean()
    torch.testing.assert_close(TranslationLoss(0.1)(net, some)[0], expected)


def test_the_last_layers_are_those_of_the_decoder():
    only = task().only(TINY.last_layers(1))
    assert all(name.startswith("decoder.1.") for name in only.params)
    assert only.size == sum(v.numel() for v in TINY.build(WORDS, 0).decoder[1].parameters())


def test_transformer_base_has_the_paper_s_size():
    plan = Transformer()
    attention, feed = 4 * plan.width**2, 2 * plan.width * plan.inner + plan.inner + plan.width
    encoder = plan.layers * (attention + feed + 4 * plan.width)
    decoder = plan.layers * (2 * attention + feed + 6 * plan.width)
    assert 60e6 < 32_000 * plan.width + encoder + decoder + 4 * plan.width < 66e6
    tiny = TINY.build(WORDS, 0)
    attention, feed = 4 * 8**2, 2 * 8 * 12 + 12 + 8
    count = WORDS * 8 + 2 * (attention + feed + 32) + 2 * (2 * attention + feed + 48) + 32
    assert sum(p.numel() for p in tiny.parameters()) == count


# --- training, decoding, BLEU --------------------------------------------------------------------


def test_the_rate_warms_up_and_falls_as_a_root():
    plan = Warmed(lr=0.1, warmup=2.0)
    assert [plan.rate(e) for e in (0, 1, 2, 8)] == [0, 0.05, 0.1, pytest.approx(0.05)]


def test_steps_with_kept_keys_are_greedy_search_over_whole_forward_passes():
    net, some = TINY.build(WORDS, 3), batch()
    found = translate(net, some["source"], Beam(1, more=3))
    for source, words in zip(some["source"], found, strict=True):
        length = int((source != PADDING).sum())
        made = [FIRST]
        for _ in range(6 + 3):
            logits = net(source[None, :length], torch.tensor([made]))[0, -1]
            logits[[PADDING, FIRST]] = -torch.inf
            made.append(int(logits.argmax()))
            if made[-1] == LAST:
                break
        assert words == [w for w in made[1 : 1 + len(words)] if w != LAST]
        assert len(words) > 0 or made[1] == LAST


def test_a_beam_finds_translations_at_least_as_likely():
    net, some = TINY.build(WORDS, 3), batch()
    net.head.weight.data.mul_(8)  # sharper: hypotheses differ in likelihood

    def likelihood(found):
        total = []
        for source, words in zip(some["source"], found, strict=True):
            target = torch.tensor([[FIRST, *words]])
            logits = net(source[None][:, : int((source != PADDING).sum())], target)
            likely = logits.log_softmax(2)[0, torch.arange(len(words)), words]
            total.append(float(likely.detach().sum()))
        return sum(total)

    greedy, wide = (
        likelihood(translate(net, some["source"], Beam(size, 0.0, 2))) for size in (1, 6)
    )
    assert wide >= greedy - 1e-4


@pytest.mark.parametrize("free", [1, 1 << 36], ids=["one at a time", "all at once"])
def test_a_gpu_translates_as_many_sentences_as_its_memory_holds(free, monkeypatch, pretend_gpu):
    net, some = TINY.build(WORDS, 3), batch()
    expected = translate(net, some["source"], Beam(3, more=3))
    sizes, search = [], models._search
    monkeypatch.setattr(
        models,
        "_search",
        lambda net, source, beam: sizes.append(len(source)) or search(net, source, beam),
    )
    pretend_gpu.free = free
    assert translate(net.to("cuda"), some["source"], Beam(3, more=3)) == expected
    n = len(some["source"])
    assert sizes == ([1] * n if free == 1 else [n])


def test_a_beam_that_cannot_be_is_one_line():
    with pytest.raises(UserError, match="a beam of 0"):
        Beam(0)


def test_bleu_is_sacrebleu_s_with_its_signature():
    value, signature = models.bleu(["the cat sat on the mat"], ["the cat sat on the mat"])
    assert value == pytest.approx(100)
    assert "tok:13a" in signature
    assert models.bleu(["dog"], ["the cat sat on the mat"])[0] == 0


def test_without_sacrebleu_only_bleu_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    asked = Asked(TINIEST, Corpus("generated test", 0, 4))
    with pytest.raises(UserError, match="BLEU needs sacrebleu"):
        translated(asked)
    assert not (runs.results() / "runs" / "translation_model").exists()  # before any training


def test_a_model_is_trained_once_and_its_translations_are_measured():
    there = trained(TINIEST)
    assert len(there.task.checkpoints) == 2
    assert there.task.size == there.metrics["num_params"]
    found = translated(Asked(TINIEST, Corpus("generated test", 0, 4)))
    assert 0 <= found.metrics["bleu"] <= 100
    assert len(found.array("translations")) == 4
    last = there.task.checkpoints[-1].params["words.weight"]
    torch.testing.assert_close(last, there.task.params["words.weight"])
    assert models.BATCH > 4
