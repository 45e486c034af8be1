"""The kinds of noise in a pool are as they are said to be, and the rules see most of them."""

import numpy as np
import pytest

from experiments.data import translation_noise as noise
from experiments.data.parallel import Corpus
from experiments.laboratory.errors import UserError


def test_each_kind_of_noise_is_as_said_and_as_often():
    pairs, other = Corpus("generated", 0, 700).load(), Corpus("generated test").load()
    spoilt, kind = noise.pollute(pairs, other, 0.6, 1)
    counts = {name: int((kind == name).sum()) for name in noise.KINDS}
    assert set(counts.values()) == {60}
    true, english, german = dict(pairs), set(pairs.target), set(pairs.source)
    for (source, target), (was, put), name in zip(pairs, spoilt, kind, strict=True):
        if name == "clean":
            assert (was, put) == (source, target)
        elif name == "foreign":
            assert was not in german
            assert put not in english
            assert [len(word) for word in was.split()] == [len(word) for word in source.split()]
        elif name == "one language":
            assert (was in english and put in english) or (was in german and put in german)
        elif name == "near copy":
            assert set(put.split()) <= set(was.split())
        elif name == "unrelated":
            assert was == source
            assert put in other.target
        elif name == "partial":
            assert was == source
            assert target.startswith(put)
            assert len(put) < len(target)
        elif name == "numbers":
            assert not any(letter.isalpha() for letter in was + put)
        else:
            assert was == source
            assert put in english
    wrong = [true.get(s) != t for s, t in spoilt]
    assert np.mean(np.array(wrong)[kind == "misaligned"]) > 0.9
    again, same = noise.pollute(pairs, other, 0.6, 1)
    assert again == spoilt
    assert (same == kind).all()
    assert noise.pollute(pairs, other, 0.6, 2)[0] != spoilt
    assert noise.pollute(pairs, other, 0.0, 1)[0] == pairs
    with pytest.raises(UserError, match=r"share of noise is 1\.5"):
        noise.pollute(pairs, other, 1.5, 1)


def test_the_cipher_respells_every_letter_and_no_two_alike():
    assert sorted(noise.PLAIN) == sorted(noise.CIPHER)
    assert all(a != b for a, b in zip(noise.PLAIN, noise.CIPHER, strict=True))


@pytest.mark.parametrize(
    ("source", "target", "kept"),
    [
        ("Ein Hund ist in der Stadt", "A dog is in the city", True),
        ("Ein Hund ist in der Stadt", "Ein Hund ist in der Stadt", False),
        ("Ein Hund ist in der Stadt", "A dog", False),
        ("12 . 4 . 2008", "12 . 4 . 2008", False),
        ("A dog is in the city", "The man has a hat", False),
        ("Ein Hund ist in der Stadt", "A dog is in the city " * 4, False),
        ("Ik hebt ouk zkade wofel", "Je suis dans ville grande", False),
    ],
)
def test_the_rules_keep_what_looks_like_a_translation(source, target, kept):
    assert noise.passes(source, target) is kept
