from __future__ import annotations

from pathlib import Path

from rich.console import Console

from al_backend.cli.simulation_output import display


def test_progress_on_a_terminal_and_in_a_file(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+") as file:
        with display(Console(file=file, force_terminal=False)) as show:
            show("random, seed 0", 1.5, 8, 3700)
            show("random, seed 0", 1.6, 8, 3700)
            show("done", 8, 8, 0)
        file.seek(0)
        assert file.read().splitlines() == [
            "1.5 of 8 (about 1 h 1 min left) random, seed 0",
            "8 of 8 (about 0 s left) done",
        ]
    with (tmp_path / "terminal").open("w+") as file:
        with display(Console(file=file, force_terminal=True, width=120)) as show:
            show("random, [seed] 0", 2, 8, 90)
        file.seek(0)
        text = file.read()
    assert "25 %" in text
    assert "about 1 min left" in text
    assert "random, [seed] 0" in text
