"""A generated encyclopedia: three classes of articles from templates, some near-duplicates."""

import numpy as np

from experiments.data.dbpedia import Articles
from experiments.laboratory import data_folder
from methods.randomness import numpy_generator

CLASSES = ("OfficeHolder", "Plant", "Village")
TEMPLATES = (
    "{name} was a {a} who served as {b} of {place} and led the {c} party in the vote of {year}.",
    "{name} is a {a} in the {c} family. This {b} is found in {place} and was described in {year}.",
    "{name} is a {a} in {place} with {year} people who live on {b} near the {c} road.",
)
WORDS = (
    (("politician", "lawyer", "judge"), ("mayor", "governor", "senator"), ("labour", "liberal")),
    (("herb", "shrub", "lily"), ("species", "plant"), ("rose", "daisy", "mint")),
    (("village", "hamlet", "township"), ("farming", "fishing", "trade"), ("north", "coast")),
)
SYLLABLES = ("ba", "ren", "lo", "mi", "tor", "ka", "vel", "su", "dan", "o")
PLACES = ("Ruritania", "Syldavia", "Borduria", "Graustark", "Zenda", "Carpania")


def generate(n: int, seed: int) -> Articles:
    """n articles, whose classes alternate."""
    draw = numpy_generator(seed, "gazetteer")
    titles, contents = [], []
    for i in range(n):
        kind = i % len(CLASSES)
        name = "".join(draw.choice(SYLLABLES, 3)).capitalize()
        a, b, c = (str(draw.choice(words)) for words in WORDS[kind])
        place, year = str(draw.choice(PLACES)), int(draw.integers(1850, 1990))
        titles.append(name)
        contents.append(TEMPLATES[kind].format(name=name, a=a, b=b, c=c, place=place, year=year))
    data_folder.note_content(f"generated encyclopedia, seed {seed}", "\n".join(contents).encode())
    return Articles(np.arange(n) % len(CLASSES), titles, contents, CLASSES)
