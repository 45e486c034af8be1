"""A W&B report for each paper: every artifact with its verdict, and the charts of its runs.

The document is the JSON that W&B's own editor saves (version 5 of a report), sent by the GraphQL
mutation that its client uses. A report of the same name is replaced.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.laboratory import privacy
from experiments.laboratory.errors import UserError, nearest
from experiments.laboratory.tracking import pages, wandb_server

CHARTS = {
    "Loss": "training/loss", "Learning rate": "training/lr", "Accuracy": "training/accuracy",
    "Gradient norm": "training/gradient_norm", "Examples a second": "training/examples_per_second",
    "GPU memory, GiB": "machine/gpu_memory_gib",
}  # fmt: skip
WIDTH, HEIGHT = 8, 6  # of a chart; a row of the grid is 24 wide
WHO = "query Who { viewer { entity } }"
THERE = """
query Reports($entity: String!, $project: String!) {
  project(name: $project, entityName: $entity) {
    allViews(viewType: "runs", first: 200) { edges { node { id displayName } } }
  }
}"""
WRITE = """
mutation Write($id: ID, $entity: String, $project: String, $name: String, $title: String,
               $about: String, $spec: String!) {
  upsertView(input: {id: $id, entityName: $entity, projectName: $project, name: $name,
                     displayName: $title, description: $about, type: "runs",
                     createdUsing: WANDB_SDK, spec: $spec}) { view { id } inserted }
}"""


def write(paper: str | None = None) -> int:
    """Write the report of one paper, or of all; a line for each. A UserError if W&B refuses."""
    papers = by_paper()
    if paper is not None and paper not in papers:
        raise UserError(f"no artifacts of a paper {paper!r}: {nearest(paper, papers)}")
    mode, off = wandb_server.mode()
    if off or mode != "online":
        raise UserError(f"W&B: no report, {off or f'WANDB_MODE is {mode}: reports are online'}")
    if not wandb_server.answers(wandb_server.server()):
        raise UserError("W&B: no report, its server did not answer: look at WANDB_BASE_URL")
    place = {"entity": _entity(), "project": wandb_server.project()}
    found = wandb_server.ask(THERE, **place)["project"]
    if found is None:
        raise UserError(
            f"W&B: no project {place['project']!r} of {place['entity']}: send pages first, by "
            "`python -m experiments track replay`"
        )
    there = {edge["node"]["displayName"]: edge["node"]["id"] for edge in found["allViews"]["edges"]}
    for each in [paper] if paper else papers:
        title = f"Retrace: {each}"
        about = f"{len(papers[each])} artifacts: claims, verdicts and the runs behind them"
        spec = json.dumps(document(papers[each], place))
        name = hashlib.sha256(each.encode()).hexdigest()[:12]
        given = {"name": name, "title": title, "about": about, "spec": spec}
        answer = wandb_server.ask(WRITE, id=there.get(title), **place, **given)["upsertView"]
        done = "written" if answer["inserted"] else "replaced"
        print(f"{title}: {about}; {done} in {place['entity']}/{place['project']}")
    return 0


def by_paper() -> dict[str, list[dict[str, Any]]]:
    """The artifacts of each paper, by its short name; of several tiers, the paper's own."""
    highest: dict[str, dict[str, Any]] = {}
    for about in sorted(pages.all_artifacts(), key=lambda one: one["tier"] == "paper"):
        highest[about["id"]] = about
    papers: dict[str, list[dict[str, Any]]] = {}
    for name in sorted(highest):
        if paper := pages.paper(highest[name]):
            papers.setdefault(paper, []).append(highest[name])
    return papers


def document(artifacts: list[dict[str, Any]], place: Mapping[str, str]) -> dict[str, Any]:
    """A report as W&B stores it, of artifacts in a `place`: entity and project."""
    blocks: list[dict[str, Any]] = [{"type": "table-of-contents", "children": [{"text": ""}]}]
    for about in artifacts:
        blocks += _blocks(privacy.scrubbed(about), place)
    return {
        "version": 5,
        "panelSettings": {},
        "blocks": blocks,
        "width": "readable",
        "authors": [],
        "discussionThreads": [],
    }


def _blocks(about: Mapping[str, Any], place: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Title, verdict and evidence of an artifact, its figure, and the charts of its runs."""
    verdict = about["verdict"]
    yield {"type": "heading", "level": 2, "children": [{"text": about["title"]}]}
    for text in (
        f"{about.get('paper', '')}. Tier {about['tier']}: {verdict['word']}.",
        verdict.get("evidence", ""),
    ):
        if text:
            yield {"type": "paragraph", "children": [{"text": text}]}
    panels = [_panel("Media Browser", {"mediaKeys": [f"figures/{about['id']}"]}, 0)]
    for index, (title, line) in enumerate(CHARTS.items(), start=1):
        config = {"chartTitle": title, "xAxis": "training/epoch", "metrics": [line]}
        panels.append(_panel("Run History Line Plot", config, index))
    yield {
        "type": "panel-grid",
        "children": [{"text": ""}],
        "metadata": {
            "openViz": True,
            "openRunSet": 0,
            "name": "unused-name",
            "runSets": [_run_set(about, place)],
            "hideRunSets": False,
            "panels": {
                "views": {"0": {"name": "Panels", "defaults": [], "config": []}},
                "tabs": ["0"],
            },
            "panelBankSectionConfig": {
                "name": "Report Panels",
                "isOpen": False,
                "panels": panels,
                "type": "grid",
                "sorted": 0,
            },
            "customRunColors": {},
        },
    }


def _panel(kind: str, config: Mapping[str, Any], index: int) -> dict[str, Any]:
    across = 24 // WIDTH
    layout = {"x": index % across * WIDTH, "y": index // across * HEIGHT, "w": WIDTH, "h": HEIGHT}
    return {"__id__": f"panel{index}", "layout": layout, "viewType": kind, "config": config}


def _run_set(about: Mapping[str, Any], place: Mapping[str, str]) -> dict[str, Any]:
    """The pages with the tags of an artifact and its tier."""
    tags = (f"artifact:{about['id']}", f"tier:{about['tier']}")
    wanted = [
        {"key": {"section": "run", "name": "tags"}, "op": "IN", "value": [tag], "disabled": False}
        for tag in tags
    ]
    wanted[1] |= {"connector": "AND"}
    newest = {"key": {"section": "run", "name": "createdAt"}, "ascending": False}
    return {
        "id": hashlib.sha256(about["id"].encode()).hexdigest()[:11],
        "name": f"{about['id']}, tier {about['tier']}",
        "enabled": True,
        "project": {"name": place["project"], "entityName": place["entity"]},
        "search": {"query": ""},
        "filters": {"filterFormat": "filterV2", "filters": wanted},
        "grouping": [],
        "sort": {"keys": [newest]},
        "selections": {"root": 1, "bounds": [], "tree": []},
        "expandedRowAddresses": [],
    }


def _entity() -> str:
    """The entity that was asked for, or else the one the server takes for this login."""
    entity = wandb_server.entity() or (wandb_server.ask(WHO)["viewer"] or {}).get("entity")
    if not entity:
        raise UserError("W&B: no report, the login has no entity: set WANDB_ENTITY")
    return str(entity)
