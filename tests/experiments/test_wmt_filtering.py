"""Filtering: shards that are redone alone, what is kept, and what is trained on it."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from experiments import wmt_filtering, wmt_retrieval, wmt_scoring
from experiments.data import translation_noise as noise
from experiments.data import words
from experiments.data.parallel import Corpus
from experiments.laboratory import runs
from experiments.laboratory.attribution import Loss, arnoldi, randproj
from experiments.laboratory.errors import UserError
from experiments.training.plans import Cycled, Warmed
from experiments.translation import models
from experiments.translation import scores as scoring
from experiments.translation.filters import (
    PAPER,
    SMALL,
    SMOKE,
    Chance,
    Everything,
    Lowest,
    Rules,
    encoded,
    select,
)
from experiments.translation.models import trained
from experiments.translation.scores import Crawl, Polluted, Scoring, basis, score, scores
from methods.ihvp.arnoldi import Krylov

METHODS = (arnoldi(2, Krylov(4, 16, 0, 2)), randproj(2, 0), Loss())
NETWORK = replace(SMOKE.model.network, width=16, inner=16, layers=1)
BRIEF = replace(SMOKE.model.fit, epochs=1, every=1)
MODEL = replace(SMOKE.model, network=NETWORK, train=Corpus("generated", 0, 40), fit=BRIEF)
POOL = Polluted(Corpus("generated", 600, 70), Corpus("generated test"), shards=2)


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("filtering")
        patch.setenv("RETRACE_RESULTS", str(home))
        patch.setenv("RETRACE_DATA", str(home / "data"))
        yield home


# --- shards --------------------------------------------------------------------------------------


def test_shards_together_are_the_pool_and_do_not_change_scores(tmp_path):
    both = scores(MODEL, POOL, METHODS, "Arnoldi")
    whole = score(Scoring(MODEL, replace(POOL, shards=1), METHODS), tmp_path)
    np.testing.assert_allclose(both, whole["score_Arnoldi"], rtol=2e-3, atol=1e-6)
    assert len(both) == whole["n_pairs"] == 70
    assert set(whole) == {"n_pairs"} | {
        f"{what}_{name}"
        for what in ("dim", "score", "seconds")
        for name in ("Arnoldi", "RandProj", "Loss")
    }


def test_a_shard_that_is_killed_half_way_is_redone_alone(monkeypatch):
    monkeypatch.setattr(scoring, "BLOCK", 8)
    pool = replace(POOL, seed=5)
    first, second = (Scoring(MODEL, pool, (Loss(),), shard) for shard in (0, 1))
    done = runs.once("wmt_scoring", first, lambda scratch: score(first, scratch))
    real, seen = scoring.losses, []

    def killed(task, some):
        seen.append(len(some["length"]))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(task, some)

    monkeypatch.setattr(scoring, "losses", killed)
    with pytest.raises(KeyboardInterrupt):
        runs.once("wmt_scoring", second, lambda scratch: score(second, scratch))
    assert runs.find("wmt_scoring", second) is None  # nothing of a shard, or all of it
    assert runs.find("wmt_scoring", first).key == done.key
    before = len(seen)
    found = scores(MODEL, pool, (Loss(),), "Loss")
    assert len(seen) - before == 3  # of five blocks two were kept, and the first shard is read
    assert max(seen) == 8  # no more than a block is held
    monkeypatch.setattr(scoring, "losses", real)
    monkeypatch.setattr(scoring, "BLOCK", 100)
    fresh = score(second, runs.results())
    np.testing.assert_allclose(found[35:], fresh["score_Loss"], rtol=1e-4)


def test_a_shard_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match="shard 2 of 2: give 0 to 1"):
        score(Scoring(MODEL, POOL, METHODS, 2), runs.results())


@pytest.fixture
def crawl(store):
    pairs, _ = POOL.load()
    folder = store / "data" / "paracrawl"
    folder.mkdir(parents=True, exist_ok=True)
    for language, text in (("de", pairs.source), ("en", pairs.target)):
        (folder / f"wmt18.de-en.{language}").write_text("\n".join(text) + "\n")
    return folder, pairs


def test_a_crawl_is_scored_from_its_files_and_never_encoded(crawl):
    folder, pairs = crawl
    pool = Crawl(shards=3, lines=30)
    parts = [pool.part(shard) for shard in range(3)]
    assert [part.n for part in parts] == [30, 30, 10]
    assert parts[1].take(5, 8) == pairs.take(range(35, 38))
    assert parts[2].take(0, 100) == pairs.take(range(60, 70))
    trained(MODEL)
    untrained = replace(MODEL, seed=9)
    for model, methods, said in (
        (untrained, (Loss(),), "the model that scores is not trained: run `python -m"),
        (MODEL, (arnoldi(1, Krylov(3)),), "the basis of Arnoldi is not computed: run `python -m"),
    ):
        with pytest.raises(UserError, match=said):
            score(Scoring(model, pool, methods), folder)
    with pytest.raises(UserError, match="shard 0 of 3 of paracrawl is not scored: `python -m"):
        scores(MODEL, pool, (Loss(),), "Loss")
    made = [score(Scoring(MODEL, pool, (Loss(),), i), folder.parent / f"{i}") for i in range(3)
            if not (folder.parent / f"{i}").mkdir()]  # fmt: skip
    same = score(Scoring(MODEL, replace(POOL, shards=1), (Loss(),)), folder.parent)
    np.testing.assert_allclose(
        np.concatenate([one["score_Loss"] for one in made]), same["score_Loss"], rtol=1e-4
    )
    with pytest.raises(
        UserError, match=r"70 lines, more than 2 shards of 30: raise pool\.shards to 3"
    ):
        Crawl(shards=2, lines=30).open()


def test_files_of_a_crawl_that_differ_in_length_are_one_line(crawl, monkeypatch, tmp_path):
    folder, pairs = crawl
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    (folder / "wmt18.de-en.en").write_text("\n".join(pairs.target[:9]) + "\n")
    with pytest.raises(UserError, match=r"has 70 lines and .*en 9: line n"):
        Crawl(shards=3, lines=30).open()
    (folder / "wmt18.de-en.de").unlink()
    with pytest.raises(UserError, match=r"wmt18\.de-en\.de of paracrawl is not in .*WMT18"):
        Crawl(shards=3, lines=30).open()


def test_the_cost_card_says_pairs_an_hour_and_what_the_corpus_takes():
    found = runs.once("wmt_scoring", Scoring(MODEL, POOL, METHODS, 0), lambda s: score(
        Scoring(MODEL, POOL, METHODS, 0), s))  # fmt: skip
    said = wmt_scoring.forecast([found])
    assert "pairs an hour" in said
    assert "100,000,000 pairs would take" in said
    assert "no shard is finished" in wmt_scoring.forecast([])


# --- what is kept, and trained on ----------------------------------------------------------------


def test_arms_keep_what_they_say():
    values = scores(MODEL, POOL, METHODS, "RandProj")
    kept = select(Lowest("RandProj", 0.3), MODEL, POOL, METHODS, 0)
    assert len(kept) == 21
    assert values[kept].max() <= np.delete(values, kept).min()
    assert (np.diff(kept) > 0).all()
    assert len(select(Everything(), MODEL, POOL, METHODS, 0)) == 70
    random = select(Chance(0.3), MODEL, POOL, METHODS, 0)
    assert len(set(random)) == 21
    assert set(random) != set(select(Chance(0.3), MODEL, POOL, METHODS, 1))
    pairs, _ = POOL.load()
    ruled = select(Rules(), MODEL, POOL, METHODS, 0)
    assert [noise.passes(*pair) for pair in pairs.take(ruled)] == [True] * len(ruled)
    assert 0 < len(ruled) < 70
    with pytest.raises(UserError, match="no scores by 'Arnold': choose one of Arnoldi"):
        select(Lowest("Arnold", 0.3), MODEL, POOL, METHODS, 0)
    with pytest.raises(UserError, match="a share of 0 of 70 pairs"):
        select(Chance(0), MODEL, POOL, METHODS, 0)


@pytest.mark.parametrize("length", [6, 20])
@pytest.mark.parametrize("index", [np.arange(3, 60, 7), np.arange(70), np.array([69])])
def test_selected_pairs_are_those_encoded_alone_padded_to_one_length(index, length, monkeypatch):
    model = replace(MODEL, language=replace(MODEL.language, length=length))
    monkeypatch.setattr(words, "BLOCK", 4)
    monkeypatch.setattr(scoring, "BLOCK", 16)
    found = encoded(model, POOL, index)
    pairs, _ = POOL.load()
    alone = models.examples(model, pairs.take(index))
    assert found["source"].shape == found["target"].shape == (len(index), length)
    for name, column in alone.items():
        assert found[name].dtype == column.dtype
        width = column.shape[-1] if column.ndim == 2 else None
        assert torch.equal(found[name][..., :width] if width else found[name], column)
        assert not width or not found[name][:, width:].any()


def test_a_pool_is_encoded_once(monkeypatch):
    encoded(MODEL, POOL, np.arange(70))
    monkeypatch.setattr(models.Vocabulary, "encode", lambda self, sentences: pytest.fail("again"))
    encoded(MODEL, POOL, np.arange(5))


def test_training_sets_of_any_size_get_the_same_steps():
    plan = Warmed(batch_size=4, pool=2)
    seen = []
    for n in (3, 10, 50):
        draws, train = Cycled(1, n, 24), {"length": torch.arange(n)}
        met = [draws.batches(plan, train, epoch) for epoch in range(3)]
        assert [len(batches) for batches in met] == [6, 6, 6]
        rows = torch.cat([torch.cat(batches) for batches in met])
        counts = torch.bincount(rows, minlength=n)
        assert counts.max() - counts.min() <= 1
        assert counts.sum() == 72
        seen.append(draws.name)
        assert all(
            torch.equal(a, b) for a, b in zip(draws.batches(plan, train, 1), met[1], strict=True)
        )
    assert len(set(seen)) == 3


def test_a_cell_trains_on_what_is_kept_and_counts_the_noise(tmp_path):
    config = wmt_filtering.Config(
        MODEL, Lowest("Loss", 0.4), POOL, METHODS, replace(MODEL, fit=replace(BRIEF, epochs=2)),
        3, Corpus("generated test", 0, 5),
    )  # fmt: skip
    found = wmt_filtering.run(config, tmp_path)
    assert (found["steps_early"], found["steps_late"]) == (3, 6)
    assert (found["n_kept"], found["n_pool"]) == (28, 70)
    _, kind = POOL.load()
    kept = select(config.arm, MODEL, POOL, METHODS, 0)
    assert found["noise_kept"] == pytest.approx((kind[kept] != "clean").mean())
    assert found["kept_of_kind"].sum() == 28
    assert found["of_kind"].sum() == 70
    scored = scores(MODEL, POOL, METHODS, "Loss")
    assert found["shown_score"][0] == scored.min()
    assert found["shown_score"][4] == scored.max()
    assert found["shown_kind"][4] == kind[scored.argmax()]
    assert found["arm"] == "Loss 40%"
    with pytest.raises(UserError, match="early is 0"):
        wmt_filtering.run(replace(config, early=0), tmp_path)


def test_the_cell_that_the_error_names_makes_the_model_and_the_basis_of_the_shards():
    cell, shard = wmt_retrieval.PRESETS["paper"][3], wmt_scoring.PRESETS["paper"][0]
    assert cell.model == shard.model
    assert cell.part is None
    asked = basis(cell.model, cell.method)
    assert asked is not None
    assert asked == basis(shard.model, shard.methods[0])


def test_the_paper_tier_has_the_paper_s_settings_and_pools_do_not_meet_the_bootstrap():
    assert {one.share for one in PAPER.arms() if isinstance(one, Lowest)} == {0.01, 0.05, 0.1}
    assert PAPER.early == 10_000
    assert PAPER.early * PAPER.retrain.fit.epochs == 200_000
    assert PAPER.methods[0].inverse.num_eigen == 10
    assert len(wmt_scoring.PRESETS["paper"]) == 110 + 10
    assert len({cell.seed for cell in wmt_filtering.PRESETS["small"]}) >= 3
    for setting in (SMOKE, SMALL):
        spans = [setting.model.train, setting.noisy_pool.corpus, setting.clean.corpus]
        assert len({one.name for one in spans}) == 1
        for one, other in pairwise(spans):
            assert one.start + one.n <= other.start
        assert setting.model.language.subwords.corpus.name == spans[0].name
