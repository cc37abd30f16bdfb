"""Writes what an experiment found: results.json, curves.png and report.html."""

from __future__ import annotations

from pathlib import Path

from model.simulation.report import curves_picture, report_page
from model.simulation.results import Results
from model.simulation.store import write_json, write_whole

RESULTS, PICTURE, REPORT = "results.json", "curves.png", "report.html"


def write_report(results: Results, folder: Path) -> dict[str, Path]:
    """Write or replace the files of a report.

    Args:
        results: may be incomplete.
        folder: created if missing.

    Returns:
        The files by kind: `results`, `report`, and `picture` where there is a curve.
    """
    files = {"results": folder / RESULTS, "report": folder / REPORT}
    write_json(files["results"], results.as_dict())
    write_whole(files["report"], report_page(results).encode())
    if results.groups():
        files["picture"] = folder / PICTURE
        write_whole(files["picture"], curves_picture(results).file("png"))
    return files
