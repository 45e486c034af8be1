"""A report of each paper, as the server is asked to keep it."""

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from experiments.laboratory.tracking import command, reports


class Server(http.server.HTTPServer):
    """W&B's GraphQL, as far as reports need it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[dict] = []
        self.refusal = ""
        self.reports = [{"node": {"id": "old", "displayName": "Retrace: FastIF"}}]
        self.project: dict | None = {"allViews": {"edges": self.reports}}


class Answer(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.end_headers()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["Authorization"].startswith("Basic ")
        self.server.asked.append(asked)
        variables = asked["variables"]
        if self.server.refusal:
            answer = {"errors": [{"message": self.server.refusal}]}
        elif "viewer" in asked["query"]:
            answer = {"data": {"viewer": {"entity": "team"}}}
        elif "upsertView" in asked["query"]:
            made = {"view": {"id": "new"}, "inserted": variables["id"] is None}
            answer = {"data": {"upsertView": made}}
        else:
            answer = {"data": {"project": self.server.project}}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    running = Server()
    threading.Thread(target=running.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_API_KEY", "secret-of-mine")
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{running.server_address[1]}")
    yield running
    running.shutdown()
    running.server_close()


def test_every_paper_has_a_report_and_one_that_is_there_is_replaced(server, capsys):
    assert command.main(["report"]) == 0
    written = [asked["variables"] for asked in server.asked if "upsertView" in asked["query"]]
    titles = [f"Retrace: {paper}" for paper in ("Arnoldi", "FastIF", "Subsets", "TracIn")]
    assert sorted(each["title"] for each in written) == titles
    assert [each["id"] for each in written if each["title"] == "Retrace: FastIF"] == ["old"]
    assert {(each["entity"], each["project"]) for each in written} == {("team", "retrace")}
    assert "secret-of-mine" not in json.dumps(server.asked)
    out = capsys.readouterr().out
    assert out.count("written in team/retrace") == 3
    assert out.count("replaced in team/retrace") == 1


def test_a_report_shows_each_artifact_with_the_charts_of_the_runs_that_have_its_tag(server):
    assert command.main(["report", "Arnoldi"]) == 0
    spec = json.loads(server.asked[-1]["variables"]["spec"])
    grids = [block for block in spec["blocks"] if block["type"] == "panel-grid"]
    headings = [block for block in spec["blocks"] if block["type"] == "heading"]
    assert len(grids) == len(headings) == len(reports.by_paper()["Arnoldi"])
    sets = [grid["metadata"]["runSets"][0] for grid in grids]
    wanted = [[one["value"] for one in each["filters"]["filters"]] for each in sets]
    assert [["artifact:arnoldi_table1"], ["tier:paper"]] in wanted
    panels = grids[0]["metadata"]["panelBankSectionConfig"]["panels"]
    places = {(panel["layout"]["x"], panel["layout"]["y"]) for panel in panels}
    assert len(places) == len(panels) == 1 + len(reports.CHARTS)


@pytest.mark.parametrize(
    ("words", "change", "said"),
    [
        (["Arnold"], {}, "did you mean 'Arnoldi'?"),
        (["Arnoldi"], {"refusal": "permission denied"}, "refuses (permission denied)"),
        (["Arnoldi"], {"project": None}, "no project 'retrace' of team: send pages first"),
    ],
)
def test_what_the_server_does_not_allow_is_one_line(words, change, said, server, capsys):
    for name, value in change.items():
        setattr(server, name, value)
    assert command.main(["report", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1
    assert not [asked for asked in server.asked if "upsertView" in asked["query"]]


def test_without_a_login_there_is_no_report(capsys):
    assert command.main(["report"]) == 2
    assert "no credentials" in capsys.readouterr().err


def test_offline_there_is_no_report(offline, capsys):
    assert command.main(["report"]) == 2
    assert "WANDB_MODE is offline: reports are online" in capsys.readouterr().err
