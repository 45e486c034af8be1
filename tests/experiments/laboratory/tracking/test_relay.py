"""A server that hangs, refuses or answers late costs an experiment its patience and no more."""

import contextlib
import http.server
import io
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from experiments.laboratory import runs
from experiments.laboratory.tracking import relay
from experiments.laboratory.tracking.relay import Relay, obey
from tests.experiments.laboratory.tiny import EXPERIMENT, Config

CELL = (runs.key(Config()), runs.describe(Config()))


class Deaf:
    """A server that accepts every connection and never answers."""

    def __init__(self) -> None:
        self.accepted = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._kept: list[socket.socket] = []
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._kept.append(self._socket.accept()[0])
                self.accepted.set()

    def close(self) -> None:
        for each in (*self._kept, self._socket):
            each.close()


@pytest.fixture
def deaf(monkeypatch) -> Iterator[Deaf]:
    server = Deaf()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", server.address)
    yield server
    server.close()


def test_a_server_that_accepts_and_never_answers_is_not_waited_for(deaf, capsys):
    sender = Relay("tiny", "smoke", patience=0.0)
    sender.watch(*CELL)
    for epoch in range(20_000):
        sender.log({"training/epoch": epoch, "training/loss": 0.5})
    assert deaf.accepted.wait(60), "it was asked"
    sender.close()
    assert sender._child.poll() is not None, "nothing of it is left"
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "not all was sent within 0 seconds" in err
    assert "python -m experiments track replay tiny" in err


def test_an_experiment_ends_though_nothing_can_be_sent(deaf, monkeypatch, capsys):
    monkeypatch.setattr(relay, "started", lambda name, preset: Relay(name, preset, patience=0.0))
    assert EXPERIMENT.main([]) == 0
    out, err = capsys.readouterr()
    assert "6 computed now" in out
    assert err.count("W&B: not all was sent") == 1
    assert not list(runs.results().glob("runs/*/tracked/*"))


def test_lines_that_cannot_be_sent_take_no_more_memory_than_is_allowed(deaf, monkeypatch):
    monkeypatch.setattr(relay, "WAITING", 3)
    monkeypatch.setattr(Relay, "_write", lambda self: None)  # the pipe is full
    sender = Relay("tiny", "smoke", patience=0.0)
    for epoch in range(10):
        sender.log({"training/epoch": epoch})
    sender.send("key")
    assert sender._waiting.qsize() == 3 + 1
    sender.close()


def test_commands_reach_the_mirror_in_order_and_what_is_cut_off_has_failed():
    called = []

    class Told:
        def __getattr__(self, name):
            return lambda *given: called.append((name, *given))

    commands = [["watch", *CELL], ["log", {"training/epoch": 1}], ["send", CELL[0]], ["finish"]]
    obey(Told(), io.StringIO("".join(json.dumps(each) + "\n" for each in commands)))
    assert called == [*map(tuple, commands), ("leave", "failed")]


@pytest.mark.parametrize("given", ["soon", "5 s"])
def test_a_patience_that_is_no_number_is_one_line(given, offline, monkeypatch, capsys):
    monkeypatch.setattr(relay, "started", Relay)
    monkeypatch.setenv("RETRACE_TRACK_SECONDS", given)
    assert EXPERIMENT.main(["--cell", "0"]) == 2
    assert capsys.readouterr().err.startswith(f"error: RETRACE_TRACK_SECONDS is {given!r}: give ")


@pytest.mark.long
def test_the_process_of_its_own_sends_what_it_is_told(offline, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(relay, "started", Relay)
    monkeypatch.setenv("RETRACE_TRACK_SECONDS", "300")
    assert EXPERIMENT.main(["--cell", "0"]) == 0
    (run,) = runs.load("tiny", "smoke", partial=True)
    assert list((tmp_path / "results" / "wandb").glob(f"offline-run-*-{run.key}"))
    assert list((tmp_path / "results").glob(f"runs/tiny/tracked/{run.key}.offline--retrace"))
    assert capsys.readouterr().err == ""


@pytest.mark.long
def test_a_server_that_hangs_once_it_is_given_a_page_is_not_waited_for(monkeypatch, capsys):
    given = threading.Event()

    class Hanging(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.end_headers()

        def do_POST(self) -> None:
            given.set()
            ended.wait()

        def log_message(self, *_: object) -> None:
            pass

    ended = threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hanging)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}")
    sender = Relay("tiny", "smoke", patience=0.0)
    sender.watch(*CELL)
    assert given.wait(120), "wandb has asked"
    sender.close()
    assert sender._child.poll() is not None
    assert "not all was sent" in capsys.readouterr().err
    ended.set()
    server.shutdown()
