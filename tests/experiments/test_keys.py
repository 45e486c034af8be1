"""The keys of all cells stay what they are: stored runs are found by them."""

import hashlib
import json
from pathlib import Path

import pytest

from experiments.laboratory import registry, runs

DIGESTS = json.loads(Path(__file__).with_name("keys.json").read_text())


def digests(name: str) -> dict[str, str]:
    """One hash per preset, of the keys of its cells in their order."""
    presets = registry.named(name).presets
    keys = {preset: [runs.key(cell) for cell in cells] for preset, cells in presets.items()}
    return {
        preset: hashlib.sha256(" ".join(keys[preset]).encode()).hexdigest()[:16] for preset in keys
    }


@pytest.mark.parametrize("name", registry.names())
def test_no_key_of_a_preset_has_changed(name):
    now, committed = digests(name), DIGESTS.get(name, {})
    changed = [preset for preset in now if now[preset] != committed.get(preset)]
    assert not changed, (
        f"the keys of {name}, preset {' and '.join(changed)}, changed: its stored runs would not "
        "be found. Restore the names and values of its config; if the cells are new on purpose, "
        f"set {json.dumps({name: now})} in tests/experiments/keys.json"
    )


def test_every_committed_preset_still_exists():
    now = {name: registry.named(name).presets for name in registry.names()}
    gone = [
        f"{name} {preset}"
        for name, presets in DIGESTS.items()
        for preset in presets
        if preset not in now.get(name, {})
    ]
    assert not gone, f"remove {', '.join(gone)} from tests/experiments/keys.json"
