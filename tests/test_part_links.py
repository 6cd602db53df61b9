"""Links within a page of several parts."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_runs import PATIENTS
from test_measurements import made

from segtrain.report import several
from segtrain.report.atlas import Atlas
from segtrain.report.collect import collect
from segtrain.report.texts import TEXTS, Language, say_in


@pytest.mark.parametrize("language", TEXTS)
def test_patients_are_linked_to_the_atlas_of_their_own_part(tmp_path: Path, language: Language) -> None:
    """The parts have patients of the same names; a run whose atlas could not be made has no number."""
    for size in (64, 96, 128):
        made(tmp_path / "runs" / f"dice-at{size}-seed1", image_size=size)
    parts, across = several.parts(collect([tmp_path / "runs"]), None)
    names = [part.of.runs[0].name for part in parts]
    card: Any = SimpleNamespace(patient=PATIENTS[1])
    atlases = [Atlas(names[2], cards=[card]), Atlas(names[1], reason="no store"), Atlas(names[0], cards=[card])]
    sections = several.sections(parts, across, say_in(language), atlases)
    (atlas,) = [section for section in sections if section.name == "atlas"]
    assert [one.run for one in atlas.atlases] == [names[0], names[2]]
    tables = {section.name: section.tables[0] for section in sections if section.name.startswith("patients-")}
    links = {name: [row[0].link for row in table.rows if row[0].link] for name, table in tables.items()}
    assert links == {"patients-1": ["atlas-0-0"], "patients-2": [], "patients-3": ["atlas-1-0"]}
