"""German-English sentence pairs: line-aligned files, Hugging Face's WMT17, or a generated grammar.

Line n of `NAME.de` under the data folder is the translation of line n of `NAME.en`. A corpus of a
hundred million pairs does not fit in memory: `Lines` reads the pairs of any range of lines.

The generated language is small enough to learn in seconds. Its word order differs as in the real
languages: in German the participle comes last, the place before it, and articles agree with their
noun in gender and case.
"""

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from experiments.data.words import ENGLISH, GERMAN, of_language, words
from experiments.laboratory import data_folder
from experiments.laboratory.errors import UserError, quoted
from experiments.laboratory.runs import note
from methods.randomness import Purpose, numpy_generator

Name = Literal[
    "multi30k",
    "multi30k test",
    "wmt sample",
    "both",
    "newstest2014",
    "wmt17",
    "newstest2016",
    "paracrawl",
    "generated",
    "generated test",
]
FILES = {
    "multi30k": "wmt/multi30k.train",
    "multi30k test": "wmt/multi30k.test_2016_flickr",
    "wmt sample": "wmt/wmt_mix_train10k.tok",
    "newstest2014": "wmt/newstest2014.tok",
    "wmt17": "wmt17/train",
    "newstest2016": "wmt17/newstest2016",
    "paracrawl": "paracrawl/wmt18.de-en",
}
SIZE: dict[Name, int] = {  # pairs, about
    "multi30k": 29_000,
    "multi30k test": 1_000,
    "wmt sample": 10_000,
    "both": 39_000,
    "newstest2014": 3_003,
    "wmt17": 5_906_184,
    "newstest2016": 2_999,
    "paracrawl": 104_000_000,
    "generated": 2_000,
    "generated test": 2_000,
}
BOTH: tuple[Name, ...] = ("multi30k", "wmt sample")  # what "both" joins, in this order
HUB = "wmt/wmt17"
HUB_SPLIT = {"wmt17": "train", "newstest2016": "validation"}
PARACRAWL = (
    "the corpus of the WMT18 parallel corpus filtering task, statmt.org/wmt18, unpacked to two "
    "files of one sentence a line"
)
GENERATED = 2_000  # sentences of the generated corpus, and of its separate test corpus
SPACED = re.compile(r" ([.,;:?!%)\]])")  # Moses puts spaces around punctuation
OPENING = re.compile(r"([(\[]) ")

# The generated language: English, German and, of nouns, the gender.
PEOPLE = (
    ("man", "Mann", "m"), ("woman", "Frau", "f"), ("child", "Kind", "n"), ("dog", "Hund", "m"),
    ("girl", "Mädchen", "n"), ("teacher", "Lehrer", "m"), ("cat", "Katze", "f"),
    ("nurse", "Pflegerin", "f"), ("horse", "Pferd", "n"), ("cook", "Koch", "m"),
)  # fmt: skip
VERBS = (
    ("seen", "gesehen"), ("found", "gefunden"), ("called", "gerufen"), ("followed", "verfolgt"),
    ("heard", "gehört"), ("painted", "gemalt"), ("helped", "unterstützt"), ("met", "getroffen"),
)  # fmt: skip
PLACES = (
    ("in the garden", "im Garten"), ("at the station", "am Bahnhof"), ("on the beach", "am Strand"),
    ("in the kitchen", "in der Küche"), ("near the river", "am Fluss"),
    ("in the city", "in der Stadt"),
)  # fmt: skip
ADJECTIVES = (("old", "alte"), ("young", "junge"), ("small", "kleine"), ("tired", "müde"))
TIMES = (("today", "heute"), ("yesterday", "gestern"), ("often", "oft"), ("never", "nie"))
NOMINATIVE = {"m": "der", "f": "die", "n": "das"}
ACCUSATIVE = {"m": "den", "f": "die", "n": "das"}


@dataclass(frozen=True)
class Pairs:
    """Sentences and their translations, line by line."""

    source: list[str]
    target: list[str]

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return zip(self.source, self.target, strict=True)

    def take(self, index: Sequence[int] | np.ndarray) -> "Pairs":
        """The pairs at `index`, in that order."""
        return Pairs([self.source[i] for i in index], [self.target[i] for i in index])


@dataclass(frozen=True)
class Corpus:
    """`n` pairs of a corpus from `start` on in a fixed random order; None is all.

    Ranges that do not overlap are disjoint sets of lines.
    """

    name: Name = "multi30k"
    start: int = 0
    n: int | None = None

    @property
    def about(self) -> int:
        """The number of pairs without reading them."""
        return self.n or SIZE[self.name] - self.start

    def load(self) -> Pairs:
        """The pairs; an error names the file that is missing or not aligned."""
        whole = _whole(self.name)
        if self.n is None and self.start == 0:
            return whole
        end = len(whole) if self.n is None else self.start + self.n
        if not 0 <= self.start < end <= len(whole):
            raise UserError(
                f"pairs {self.start:,} to {end:,} of {self.name}, which has {len(whole):,}: "
                "lower start or n"
            )
        return whole.take(
            numpy_generator(0, Purpose.SPLIT).permutation(len(whole))[self.start : end]
        )


def generate(n: int, seed: int) -> tuple[list[str], list[str]]:
    """n German sentences and their English translations."""
    draw = numpy_generator(seed, "translation grammar")
    pairs = [_sentence(draw) for _ in range(n)]
    text = "\n".join(f"{source}\t{target}" for source, target in pairs)
    data_folder.note_content(f"generated translations, seed {seed}", text.encode())
    return [source for source, _ in pairs], [target for _, target in pairs]


def _sentence(draw: np.random.Generator) -> tuple[str, str]:
    one, other = (PEOPLE[i] for i in draw.choice(len(PEOPLE), 2, replace=False))
    verb, place, time = (words[draw.integers(len(words))] for words in (VERBS, PLACES, TIMES))
    adjective = ADJECTIVES[draw.integers(len(ADJECTIVES))] if draw.random() < 0.5 else None
    subject = [NOMINATIVE[one[2]], *([adjective[1]] if adjective else []), one[1]]
    english = ["the", *([adjective[0]] if adjective else []), one[0]]
    place = place if draw.random() < 0.6 else ("", "")
    time = time if draw.random() < 0.5 else ("", "")
    german = [*subject, "hat", time[1], ACCUSATIVE[other[2]], other[1], place[1], f"{verb[1]}."]
    english += ["has", time[0], verb[0], "the", other[0], place[0]]
    return " ".join(filter(None, german)), f"{' '.join(filter(None, english))}."


def _whole(name: Name) -> Pairs:
    if name == "both":
        parts = [_whole(part) for part in BOTH]
        return Pairs([s for p in parts for s in p.source], [t for p in parts for t in p.target])
    if name in ("generated", "generated test"):
        return Pairs(*generate(GENERATED, int(name == "generated test")))
    stem = data_folder.root() / FILES[name]
    if name in HUB_SPLIT and not side(stem, "de").exists():
        return _from_hub(name)
    texts = [_read(side(stem, language), name) for language in ("de", "en")]
    if len(texts[0]) != len(texts[1]):
        raise misaligned(stem, *map(len, texts))
    if ".tok" in stem.name:
        texts = [[_joined(line) for line in text] for text in texts]
    both = [i for i, pair in enumerate(zip(*texts, strict=True)) if all(s.strip() for s in pair)]
    pairs = Pairs(*texts).take(both)
    check(stem, pairs)
    return pairs


def side(stem: Path, language: str) -> Path:
    """The file of one language."""
    return stem.with_name(f"{stem.name}.{language}")


def misaligned(stem: Path, de: int, en: int) -> UserError:
    """The error for two files that cannot be translations of each other, line by line."""
    return UserError(
        f"{stem}.de has {de:,} lines and {stem}.en {en:,}: line n of one must translate line n of "
        "the other; copy both again"
    )


def check(stem: Path, pairs: Pairs) -> None:
    """Refuse files without a pair, and files of other languages: swapped ones, or one file twice.

    A thousand pairs are looked at, all over the files. A side is of the other language if that has
    more than twice as many common words there, and three more.
    """
    if not len(pairs):
        raise UserError(
            f"{quoted(side(stem, 'de'))} and {quoted(side(stem, 'en'))} have no pair of sentences: "
            "copy both again"
        )
    some = pairs.take(np.linspace(0, len(pairs) - 1, min(len(pairs), 1_000)).astype(int))
    for way, sentences, own, other in (
        ("de", some.source, GERMAN, ENGLISH),
        ("en", some.target, ENGLISH, GERMAN),
    ):
        found = [word for sentence in sentences for word in words(sentence)]
        if of_language(found, other) > 2 * of_language(found, own) + 3:
            raise UserError(
                f"{quoted(side(stem, way))} is in the other language: .de is to be German and .en "
                "English, so swap the files, or copy both again"
            )


def _read(path: Path, name: str) -> list[str]:
    if not path.exists():
        raise absent(path, name)
    lines = data_folder.read_text(path, data_folder.replace(path)).split("\n")
    lines = [line.removesuffix("\r") for line in lines]
    return lines[:-1] if lines and not lines[-1] else lines


def absent(path: Path, name: str) -> UserError:
    """The error for a missing file, which says where it comes from."""
    origin = f" ({PARACRAWL})" if name == "paracrawl" else ""
    return data_folder.missing(
        f"{path.name} of {name} is not in {quoted(path.parent)}",
        "has no download",
        f"put the line-aligned files {path.stem}.de and {path.stem}.en there{origin}",
        path.parent.name,
    )


def _joined(line: str) -> str:
    """A line of Moses' tokens with its escapes decoded and the spaces at punctuation removed."""
    plain = html.unescape(line).replace("@-@", "-")
    return OPENING.sub(r"\1", SPACED.sub(r"\1", plain)).strip()


def _from_hub(name: str) -> Pairs:
    folder = data_folder.root() / "wmt17" / "huggingface"

    def failure(reason: str) -> UserError:
        files = f"{FILES[name]}.de and {FILES[name]}.en"
        what = (
            f"{name} is neither in {files} under {quoted(data_folder.root())} nor in "
            f"{quoted(folder)}"
        )
        remedy = (
            "put the line-aligned files there, or run the same command where there is a network "
            "and copy the folder, or take --preset small, which needs only wmt/multi30k.* and "
            "wmt/wmt_mix_train10k.*"
        )
        return data_folder.missing(what, reason, remedy, "wmt17")

    def load(cache_dir: str) -> Pairs:
        from datasets import load_dataset

        table = load_dataset(HUB, "de-en", split=HUB_SPLIT[name], cache_dir=cache_dir)
        rows = list(table["translation"])
        return Pairs([row["de"] for row in rows], [row["en"] for row in rows])

    pairs = data_folder.from_hub(folder, load, failure)
    if not all(isinstance(text, str) for text in texts(pairs)):
        raise failure("a sentence is no text")
    note("data", {f"{HUB} {HUB_SPLIT[name]}": f"{len(pairs)} pairs"})
    return pairs


@dataclass(frozen=True)
class Lines:
    """Two files too large for memory, and `offsets` (n_marks,) of every `stride`-th line of each.

    n is the number of lines.
    """

    stem: Path
    stride: int
    offsets: dict[str, np.ndarray]
    n: int

    def take(self, start: int, end: int) -> Pairs:
        """The pairs of lines `start` to `end`, read from the mark before them on."""
        return Pairs(*(self._lines(side, start, min(end, self.n)) for side in ("de", "en")))

    def chosen(self, index: np.ndarray) -> Iterator[tuple[str, str]]:
        """Iterate over the pairs at increasing line numbers."""
        for mark in np.unique(index // self.stride):
            start = int(mark) * self.stride
            block = self.take(start, start + self.stride)
            for i in index[index // self.stride == mark] - start:
                yield block.source[i], block.target[i]

    def _lines(self, language: str, start: int, end: int) -> list[str]:
        mark = start // self.stride
        with open(side(self.stem, language), "rb") as file:
            file.seek(int(self.offsets[language][mark]))
            for _ in range(start - mark * self.stride):
                file.readline()
            lines = [file.readline() for _ in range(end - start)]
        return [line.decode("utf-8", "replace").rstrip("\r\n") for line in lines]


def marks(path: Path, name: str, stride: int) -> tuple[np.ndarray, int]:
    """The offset in bytes of every `stride`-th line of a file, and how many lines it has."""
    if not path.exists():
        raise absent(path, name)
    offsets, at, n, remedy = [0], 0, 0, data_folder.replace(path)
    try:
        with path.open("rb") as file:
            for line in file:
                at, n = at + len(line), n + 1
                line.decode()  # before days of work
                if n % stride == 0:
                    offsets.append(at)
    except UnicodeDecodeError as error:
        raise data_folder.not_utf8(path, error, remedy, n) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"cannot read {quoted(path)} ({reason}): {remedy}") from error
    return np.array(offsets, dtype=np.int64), n


def texts(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Iterate over every sentence, alternating between the languages."""
    for source, target in pairs:
        yield source
        yield target
