"""Examples from any data set give what the same examples in memory give, a chunk at a time."""

import numpy as np
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from methods import Source
from methods.curvature.operators import GaussNewton, Hessian
from methods.errors import MethodError
from methods.examples import chunks, count, sourced, take
from methods.fastif import influential
from methods.ihvp.cg import CG
from methods.ihvp.lissa import LiSSA
from methods.influence import Influence
from methods.rows import gradients
from methods.rows.projections import Gaussian
from methods.search.index import build
from methods.search.projected import Projected
from methods.search.searches import Exact as Exhaustive
from methods.task import Task
from methods.tracin import TracIn, measure
from tests.methods import networks
from tests.methods.test_attributors import CLOSE, ENTRIES, QUERY, TRAIN, the_task


class Items(Dataset):
    """Rows as dicts of a tensor and a number; `reads` is how many, `most` is how many at once."""

    def __init__(self, examples):
        self.examples, self.reads = examples, 0

    def __len__(self):
        return len(self.examples["y"])

    def __getitem__(self, i):
        if not isinstance(i, int):
            raise TypeError("one at a time")
        self.reads += 1
        return {"x": self.examples["x"][i], "y": int(self.examples["y"][i])}


class Table:
    """Only slices, as lists; `most` is how many rows at once."""

    def __init__(self, examples):
        self.examples, self.most = examples, 0

    def __len__(self):
        return len(self.examples["y"])

    def __getitem__(self, index):
        if not isinstance(index, slice):
            raise TypeError("slices alone")
        some = take(self.examples, index)
        self.most = max(self.most, len(some["y"]))
        return {"x": some["x"].tolist(), "y": some["y"].numpy()}


def collated(items):
    return {
        "x": torch.stack([item["x"] for item in items]),
        "y": torch.tensor([i["y"] for i in items]),
    }


def hugging_face(examples):
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_dict({name: c.tolist() for name, c in examples.items()})


FORMS = {
    "items": Items,
    "list": lambda e: [{"x": x, "y": y} for x, y in zip(e["x"], e["y"], strict=True)],
    "table": Table,
    "loader": lambda e: DataLoader(Items(e), batch_size=3, shuffle=True, collate_fn=collated),
    "workers": lambda e: Source(Items(e), workers=2),
    "subset": lambda e: Subset(Items(e), list(range(len(e["y"])))),
    "hugging-face": hugging_face,
    "hugging-face-torch": lambda e: hugging_face(e).with_format("torch", dtype=torch.float64),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_reads_the_same(form):
    source = sourced(FORMS[form](TRAIN))
    assert count(source) == len(TRAIN["y"])
    for have, want in zip(chunks(source, 5), chunks(TRAIN, 5), strict=True):
        torch.testing.assert_close(have["x"], want["x"], rtol=0, atol=0)
        torch.testing.assert_close(have["y"].long(), want["y"])
    places = torch.tensor([7, 2, 2])
    torch.testing.assert_close(take(source, places)["x"], TRAIN["x"][places])
    torch.testing.assert_close(source["x"][places], TRAIN["x"][places])


@pytest.mark.parametrize("name", ENTRIES)
def test_every_method_scores_a_data_set_as_its_tensors(name):
    task, method = the_task(), ENTRIES[name]
    wanted, fitted = method.fit(task, TRAIN), method.fit(task, Items(TRAIN))
    torch.testing.assert_close(
        fitted.scores(Table(QUERY), Items(TRAIN)), wanted.scores(QUERY, TRAIN), **CLOSE
    )
    torch.testing.assert_close(
        fitted.self_influence(Table(TRAIN)), wanted.self_influence(TRAIN), **CLOSE
    )


class Sentences(Dataset):
    """Token ids of several lengths; the label is that of the sentence."""

    def __init__(self, lengths, seed):
        drawn = torch.Generator().manual_seed(seed)
        self.ids = [torch.randint(1, 9, (n,), generator=drawn) for n in lengths]

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        return self.ids[i], int(self.ids[i][0]) % 3


class Bag(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.out = torch.nn.Embedding(9, 4), torch.nn.Linear(4, 3)

    def forward(self, ids):
        seen = (ids > 0).to(self.out.weight.dtype)[:, :, None]
        return self.out((self.words(ids) * seen).sum(1) / seen.sum(1))


def padded(items):
    ids = torch.nn.utils.rnn.pad_sequence([ids for ids, _ in items], batch_first=True)
    return {"ids": ids, "label": torch.tensor([label for _, label in items])}


@pytest.mark.parametrize(
    "method",
    [
        TracIn(learning_rates=False),
        Influence(CG(tolerance=1e-12), 3.0),
        Influence(LiSSA(20, 8, 100.0), 3.0),
    ],
    ids=["tracin", "cg", "lissa"],
)
def test_lengths_may_vary_where_the_collate_function_pads(method):
    model = networks.built(Bag)
    task = Task.of(
        model,
        lambda m, b: torch.nn.functional.cross_entropy(m(b["ids"]), b["label"], reduction="none"),
    )
    train, query = Sentences([3, 7, 2, 5] * 40, 0), Sentences([4, 1, 6], 1)
    whole = [padded([data[i] for i in range(len(data))]) for data in (query, train)]
    lazy = [DataLoader(data, batch_size=2, collate_fn=padded) for data in (query, train)]
    wanted = method.scores(task, whole[1], whole[0])
    torch.testing.assert_close(method.scores(task, lazy[1], lazy[0]), wanted, **CLOSE)
    with pytest.raises(
        MethodError, match=r"column 0 .* other shapes, \(\d,\) and \(\d,\): .*collate_fn"
    ):
        method.fit(task, train).scores(query, train)


@pytest.mark.long
def test_curvatures_read_a_source_in_chunks():
    task = the_task()
    many = networks.examples(200, 6)
    vector = torch.ones(1, task.size, dtype=torch.float64)
    for kind in (Hessian, GaussNewton):
        for settings in ({}, {"sample": 70, "seed": 3}):
            table = Table(many)
            have = kind(task, table, 0.1, **settings).apply(vector)
            torch.testing.assert_close(
                have, kind(task, many, 0.1, **settings).apply(vector), **CLOSE
            )
            assert table.most <= 64
    kept = Hessian(task, Table(many)).linearized().apply(vector)
    torch.testing.assert_close(kept, Hessian(task, many).apply(vector), **CLOSE)


@pytest.mark.parametrize("name", ["tracin-last", "gaussian", "cg", "fastif", "representer"])
def test_a_pass_reads_each_candidate_once_and_a_chunk_at_a_time(name):
    task, many = the_task(), networks.examples(300, 6)
    fitted = ENTRIES[name].fit(task, TRAIN)
    fitted.self_influence(TRAIN)  # proofs of the first batches are done
    items, table = Items(many), Table(many)
    fitted.self_influence(items)
    assert items.reads <= len(many["y"]) + 12  # the first twice, and a few to find sizes by
    fitted.proponents(QUERY, table, 3)
    fitted.scores(QUERY, table)
    assert table.most <= gradients.MOST


@pytest.mark.parametrize("name", ["tracin", "gaussian", "exact", "representer"])
def test_the_best_of_tiles_are_those_of_the_whole_matrix(name, monkeypatch):
    task = the_task()
    tied = {key: torch.cat([value, value, value[:4]]) for key, value in TRAIN.items()}
    fitted = ENTRIES[name].fit(task, TRAIN)
    wanted = [find(QUERY, tied, 9) for find in (fitted.proponents, fitted.opponents)]
    whole = fitted.scores(QUERY, tied)
    monkeypatch.setattr("methods.fitted.scoring.TILE", 35)
    monkeypatch.setattr("methods.fitted.scoring.QUERIES", 2)
    sizes = []
    zeros = type(fitted)._zeros
    monkeypatch.setattr(
        type(fitted),
        "_zeros",
        lambda self, n, some: sizes.append(n * count(some)) or zeros(self, n, some),
    )
    for find, (values, _) in zip((fitted.proponents, fitted.opponents), wanted, strict=True):
        have = find(QUERY, Items(tied), 9)
        torch.testing.assert_close(have[0], values, **CLOSE)
        torch.testing.assert_close(whole.gather(1, have[1]), values, **CLOSE)
        assert 0 < max(sizes) <= 35, "no more than a tile is held"
        sizes.clear()
    with pytest.raises(MethodError, match="the 0 highest of 30 scores"):
        fitted.proponents(QUERY, tied, 0)


@pytest.mark.parametrize("method", [TracIn(learning_rates=False), Influence(CG(), 1.0)])
def test_ties_come_in_the_order_of_candidates_whatever_the_tiles(method, monkeypatch):
    plain = torch.nn.Linear(1, 1, bias=False).double()
    task = Task.of(plain.eval(), lambda model, batch: model(batch["x"])[:, 0])  # its gradient is x
    drawn = torch.Generator().manual_seed(0)
    many = {"x": torch.randint(3, (50, 1), generator=drawn).double()}
    fitted = method.fit(task, many)
    monkeypatch.setattr("methods.fitted.scoring.TILE", 14)
    for find, sign in ((fitted.proponents, -1), (fitted.opponents, 1)):
        _, places = find({"x": torch.tensor([[1.0], [2.0]]).double()}, many, 30)
        wanted = (sign * many["x"][:, 0]).argsort(stable=True)[:30]
        assert torch.equal(places, wanted.expand(2, 30))


def test_scores_go_to_a_file(tmp_path):
    fitted = TracIn().fit(the_task(), TRAIN)
    wanted, path = fitted.scores(QUERY, TRAIN), tmp_path / "scores.npy"
    fitted.scores(QUERY, TRAIN, out=path)
    np.testing.assert_array_equal(np.load(path, mmap_mode="r"), wanted.numpy())
    mapped = np.memmap(tmp_path / "raw", np.float64, "w+", shape=wanted.shape)
    mapped[:] = 7  # what is there before does not matter
    assert fitted.scores(QUERY, TRAIN, out=mapped).data_ptr() == mapped.ctypes.data
    np.testing.assert_array_equal(mapped, wanted.numpy())
    wrong = [np.zeros((2, 2)), wanted.float(), np.load(path, mmap_mode="r"), [[1.0]]]
    wrong += [np.zeros((5, 13), kind) for kind in (">f8", object)]
    wrong += [np.zeros((5, 13))[::-1], torch.zeros(1, 13).double().expand(5, 13)]
    for bad in (*wrong, torch.zeros(5, 13).double().requires_grad_()):
        with pytest.raises(
            MethodError, match=r"out is .*: give a writable array \(5, 13\) of float64"
        ):
            fitted.scores(QUERY, TRAIN, out=bad)
    with pytest.raises(MethodError, match="cannot write"):
        fitted.scores(QUERY, TRAIN, out=tmp_path / "none" / "scores.npy")


def test_scores_that_fail_leave_the_file_as_it_was(tmp_path):
    fitted, path = TracIn().fit(the_task(), TRAIN), tmp_path / "scores.npy"
    wanted = fitted.scores(QUERY, TRAIN, out=path).clone()
    with pytest.raises(MethodError):
        fitted.scores(QUERY, {**TRAIN, "y": TRAIN["y"] + 7}, out=path)
    np.testing.assert_array_equal(np.load(path), wanted.numpy())
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_indexes_projections_and_the_procedure_of_fastif_read_a_source():
    task = the_task()
    fitted = TracIn().fit(task, TRAIN)
    have, wanted = (
        build(Projected(fitted, Gaussian(8)), c, Exhaustive()) for c in (Items(TRAIN), TRAIN)
    )
    torch.testing.assert_close(have.engine, wanted.engine, **CLOSE)
    settings = ENTRIES["fastif"]
    features = QUERY["x"], TRAIN["x"]
    have, wanted = (
        influential(task, *e, features, settings)
        for e in ((Items(TRAIN), Items(QUERY)), (TRAIN, QUERY))
    )
    torch.testing.assert_close(have.scores, wanted.scores, **CLOSE)
    torch.testing.assert_close(measure(task, Items(QUERY)), measure(task, QUERY))


def test_a_method_fitted_on_a_data_set_is_saved_without_it(tmp_path):
    task, method = the_task(), ENTRIES["cg"]
    method.fit(task, Items(TRAIN)).save(tmp_path / "fitted")
    with pytest.raises(MethodError, match="needs the training examples"):
        method.restore(task, tmp_path / "fitted")
    restored = method.restore(task, tmp_path / "fitted", Items(TRAIN))
    torch.testing.assert_close(restored.scores(QUERY, TRAIN), method.scores(task, TRAIN, QUERY))


class Stream(IterableDataset):
    def __iter__(self):
        return iter([{"x": torch.ones(6), "y": 0}])


class Noisy(Items):
    """Noise in some items, as augmentation by chance has it."""

    def __getitem__(self, i):
        return {"x": torch.randn(6) if i else torch.zeros(6), "y": 0}


class OfNames:
    """A table whose items are its columns, as a data frame's."""

    def __init__(self, columns):
        self.columns = columns

    def __len__(self):
        return 5

    def __getitem__(self, name):
        return self.columns[name]


def failing(items):
    raise KeyError("labels")


X = TRAIN["x"]
BAD = {
    "iterable": (Stream(), "cannot be read at a position"),
    "iterable loader": (DataLoader(Stream()), "cannot be read at a position"),
    "a generator": ((i for i in range(3)), "found a generator"),
    "no length": (Dataset(), "cannot be read at a position"),
    "empty": (TensorDataset(X[:0]), "no examples: give one at least"),
    "noise": (Noisy(TRAIN), "differs between two reads"),
    "text": ([{"x": "a"}, {"x": "b"}], "column x of the data set has a str, which is no number"),
    "nothing": ([{"x": None}, {"x": 1}], "column x of the data set has None"),
    "other columns": ([{"x": 1.0}, {"y": 1.0}], "other columns, x and y: give each the same"),
    "other fields": ([(1.0, 2.0), (1.0,)], "other columns, 0, 1 and 0: give each the same"),
    "ragged lists": ([{"x": [1]}, {"x": [1, 2]}], r"other shapes, \(1,\) and \(2,\).*collate_fn"),
    "collate fails": (
        DataLoader(Items(TRAIN), collate_fn=failing),
        "example 0 of the data set cannot be read: KeyError: 'labels'",
    ),
    "collate drops": (
        DataLoader(Items(TRAIN), collate_fn=lambda items: {"x": X[:1], "y": torch.zeros(())}),
        "column y is a tensor of shape .* for 1 examples",
    ),
    "sampler": (
        DataLoader(Items(TRAIN), sampler=WeightedRandomSampler(torch.ones(5), 5)),
        "its WeightedRandomSampler may leave examples out: give torch.utils.data.Subset",
    ),
    "with replacement": (
        DataLoader(Items(TRAIN), sampler=RandomSampler(Items(TRAIN), replacement=True)),
        "its RandomSampler may leave examples out",
    ),
    "own batches": (DataLoader(Items(TRAIN), batch_sampler=[[0, 1], [2]]), "its list may leave"),
    "sparse": ({"x": X.to_sparse(), "y": TRAIN["y"]}, r"x is a sparse tensor: give x.to_dense"),
    "arrays": ({"x": X.numpy(), "y": TRAIN["y"]}, "of arrays: torch.as_tensor of each"),
    "a table": (OfNames(TRAIN), r"\(an OfNames\) cannot be read: KeyError: 0; give what has items"),
    "whole batches": (DataLoader(Items(TRAIN), batch_size=None), "without batch_size"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_data_set_is_one_line(case):
    data, message = BAD[case]
    with pytest.raises(MethodError, match=message) as caught:
        TracIn(learning_rates=False).fit(the_task(), TRAIN).self_influence(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_item_is_one_line_whoever_reads_it(workers):
    source = Source([{"x": 1.0}, {"x": 2.0}, {"x": "three"}], workers=workers)
    with pytest.raises(MethodError, match="column x of the data set has a") as caught:
        list(source.chunks(2))
    assert "\n" not in str(caught.value)
