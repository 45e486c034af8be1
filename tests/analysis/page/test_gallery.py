"""A gallery of one's own: every form of scores and of examples, and one line for a mistake."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import gallery
from analysis.numbers.found import found
from experiments.laboratory.runs import UserError
from methods import Scores, Task, TracIn

SCORES = np.array([[0.5, -2.0, 3.0, 0.5], [1.0, 0.0, -1.0, 4.0]])
NAMES = ["a", "b", "c", "d"]
QUERY, CANDIDATES = {"name": ["p", "q"]}, {"name": NAMES}


def listed(queries, side, method=""):
    """The numbers that were found for each query, and their scores."""
    lists = [query.lists[method][side] for query in queries]
    return [[(item.example.number, item.score) for item in items] for items in lists]


def shown(page):
    """What a page was given to show."""
    (text,) = re.findall(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(text)


def test_both_sides_of_a_matrix_are_found_and_equal_scores_keep_their_order():
    queries = found(SCORES, QUERY, CANDIDATES, k=3)
    assert listed(queries, "proponents")[0] == [(2, 3.0), (0, 0.5), (3, 0.5)]
    assert listed(queries, "opponents")[0] == [(1, -2.0), (0, 0.5), (3, 0.5)]
    assert listed(queries, "opponents")[1] == [(2, -1.0), (1, 0.0), (0, 1.0)]


def test_the_best_of_each_query_may_be_given_by_values_and_index():
    scores = SCORES + np.array([0.0, 0.0, 0.0, 0.1])  # torch keeps no order among equal ones
    top, low = (torch.tensor(scores).topk(2, largest=largest) for largest in (True, False))
    queries = found((top.values, top.indices), QUERY, CANDIDATES, (low.values, low.indices))
    whole = found(scores, QUERY, CANDIDATES, k=2)
    for side in ("proponents", "opponents"):
        assert listed(queries, side) == listed(whole, side)


def test_scores_that_were_kept_name_their_method_and_their_examples(tmp_path):
    torch.manual_seed(0)
    columns = {"x": torch.randn(7, 4), "label": torch.arange(7) % 3}

    def nll(model, batch):
        logits = model(batch["x"])
        return torch.nn.functional.cross_entropy(logits, batch["label"], reduction="none")

    fitted = TracIn(learning_rates=False).fit(Task.of(torch.nn.Linear(4, 3).eval(), nll), columns)
    few = {name: column[:2] for name, column in columns.items()}
    whole = fitted.scores(few, columns)
    numbers = {"query_numbers": [5, 3], "candidate_numbers": [10, 11, 12, 13, 14, 15, 16]}
    examples = [{"name": f"example {i}"} for i in range(17)]
    for side in ("proponents", "opponents"):
        kept = Scores.of(fitted, few, columns, k=2, side=side, folder=tmp_path / side, **numbers)
        queries = found(kept, examples, examples)
        best = whole.topk(2, largest=side == "proponents")
        assert [query.example.number for query in queries] == [5, 3]
        assert [[n for n, _ in one] for one in listed(queries, side, "TracIn")] == (
            best.indices + 10
        ).tolist()
        assert queries[0].lists["TracIn"][side][0].example.facts == {
            "name": f"example {10 + int(best.indices[0, 0])}"
        }
    queries = found(Scores.of(fitted, few, columns, **numbers), examples, examples, k=7)
    assert sorted(n for n, _ in listed(queries, "proponents", "TracIn")[0]) == list(range(10, 17))


def test_scores_of_tokens_rank_by_their_sum_and_highlight_the_words_of_the_query():
    tokens = np.array([[[1.0, 0.0], [2.0, -1.0], [0.0, 9.0]]])  # one query, three tokens
    query = {"text": [["one", "two", "three"]]}
    (only,) = found(tokens, query, {"text": ["first", "second"]}, k=1)
    (best,) = only.lists[""]["proponents"]
    assert (best.example.number, best.score, best.weights) == (1, 8.0, (0.0, -1.0, 9.0))
    assert only.example.text == "one two three"
    assert found(tokens, {"text": [["a", " b"]]}, {"text": ["x", "y"]})[0].example.text == "a b"


@pytest.mark.parametrize(
    "image",
    [
        np.full((3, 5, 4), 0.5),
        np.full((5, 4, 3), 0.5),
        np.full((1, 5, 4), 0.5, np.float32),
        np.full((5, 4), 128, np.uint8),
        torch.full((3, 5, 4), 0.5, dtype=torch.bfloat16, requires_grad=True),
    ],
)
def test_images_in_any_order_of_axes_are_shown(image):
    (query,) = found([[1.0]], [{"image": image}], [{"image": image}])
    pixels = query.example.pixels
    assert pixels.shape[:2] == (5, 4)
    assert pixels.dtype == np.uint8
    assert set(np.unique(pixels)) == {128}


def test_a_page_and_a_picture_have_what_was_found_and_nothing_else(tmp_path):
    images = np.arange(4 * 6 * 6, dtype=np.uint8).reshape(4, 6, 6)
    candidates = pd.DataFrame({"label": ["</script><b>x", *NAMES[1:]], "weight": [1.5, 2, 3, 4]})
    query = {"image": images[:2], "label": NAMES[:2]}
    both = {"TracIn": SCORES, "other": -SCORES}
    seen = [{**row, "image": images[i]} for i, row in enumerate(candidates.to_dict("records"))]
    page = gallery(both, query, seen, tmp_path / "new", k=1, title="Mine & yours")
    assert page == tmp_path / "new" / "index.html"
    assert (page.parent / "gallery.png").read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(| src=", text)
    assert text.count("</script>") == 2, "a label cannot end the script it is in"
    assert "Mine &amp; yours" in text
    data = shown(page)
    assert data["methods"] == ["TracIn", "other"]
    facts = [one["facts"] for one in data["examples"]]
    assert {"label": "c", "weight": "3"} in facts
    assert all(one["image"].startswith("data:image/webp;base64,") for one in data["examples"])
    first = data["queries"][0]["lists"]
    found_first = [(m, side, data["examples"][items[0][0]]["n"]) for m, side, items in first]
    assert found_first == [
        (0, "proponents", 2), (0, "opponents", 1), (1, "proponents", 1), (1, "opponents", 2),
    ]  # fmt: skip
    assert gallery(both, query, seen, tmp_path / "new", k=1, title="Mine & yours") == page
    assert page.read_text() == text


@pytest.mark.parametrize(
    "candidates",
    [
        {"text": ["a long text " * 40, "b", "c", "d"], "label": NAMES},
        {"text": [["some", "words"]] * 4, "token_scores": [[0.1, -0.2]] * 4},
        {"age": [1, 2, 3, 4], "label": NAMES},
    ],
)
def test_texts_highlighted_words_and_rows_are_drawn(tmp_path, candidates):
    page = gallery(SCORES, {"text": ["one", "two"]}, candidates, tmp_path)
    assert (tmp_path / "gallery.png").stat().st_size > 5_000
    assert len(shown(page)["examples"]) == 6


PICTURE = np.zeros((2, 2, 2, 2))
MISTAKES = {
    "scores are an array (4,) of float64: give a Scores": (np.zeros(4), QUERY, CANDIDATES),
    "scores are an empty dict": ({}, QUERY, CANDIDATES),
    "scores are not finite": (np.full((2, 4), np.nan), QUERY, CANDIDATES),
    "their index (2, 2) of float64": ((np.zeros((2, 2)), np.zeros((2, 2))), QUERY, CANDIDATES),
    "scores name candidate 2, and 2 candidates are given": (SCORES, QUERY, {"name": ["a", "b"]}),
    "scores name query 1, and 1 queries are given": (SCORES, {"name": ["p"]}, CANDIDATES),
    "columns of the candidates differ in length (x 4, y 3)": (
        SCORES, QUERY, {"x": NAMES, "y": NAMES[:3]},
    ),
    "the queries are a int: give a dict of columns": (SCORES, 3, CANDIDATES),
    "query 0 is a str: give a dict": (SCORES, ["p", "q"], CANDIDATES),
    "query 0 has values from -1 to -1: undo the normalisation": (
        SCORES, {"image": np.full((2, 3, 3), -1.0)}, CANDIDATES,
    ),
    "query 0 is an image of shape (2, 2, 2)": (SCORES, {"image": PICTURE}, CANDIDATES),
    "query 0 has 2 words and 1 token scores": (
        SCORES, {"text": [["a", "b"]] * 2, "token_scores": [[1.0]] * 2}, CANDIDATES,
    ),
}  # fmt: skip


@pytest.mark.parametrize("said", MISTAKES)
def test_a_mistake_is_one_line_that_says_what_to_give(said, tmp_path):
    with pytest.raises(UserError) as caught:
        gallery(*MISTAKES[said], tmp_path / "none")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "none").exists()


def test_no_example_or_method_is_asked_for_in_vain():
    with pytest.raises(UserError, match="k is 0: show at least one"):
        found(SCORES, QUERY, CANDIDATES, k=0)
    with pytest.raises(UserError, match="opponents of 'b', which has no scores"):
        found({"a": SCORES}, QUERY, CANDIDATES, {"b": SCORES})
