"""What a run looks like: its curves as SVG and its newest overlays, inline in a notebook."""

import base64
import sys
from dataclasses import dataclass
from pathlib import Path

from segtrain.run import Run
from segtrain.run.events import evaluations, train_events


@dataclass(frozen=True)
class Pictures:
    """The curves of losses and of the DSC, as SVG, and the file of the newest overlays; empty before an evaluation."""

    title: str
    curves: tuple[str, ...] = ()
    overlays: Path | None = None

    def _repr_html_(self) -> str:
        from html import escape

        parts = [f"<b>{escape(self.title)}</b>", *(f'<div style="max-width:480px">{one}</div>' for one in self.curves)]
        if self.overlays:
            data = base64.b64encode(self.overlays.read_bytes()).decode()
            parts.append(f'<img alt="overlays: prediction red, truth green" src="data:image/png;base64,{data}"/>')
        return "\n".join(parts)

    def save(self, folder: str | Path) -> Path:
        """Write all of it as one page into a folder, for where there is no notebook; the page."""
        page = Path(folder) / f"{Path(self.title).name}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"<!doctype html><meta charset=utf-8>\n{self._repr_html_()}\n", encoding="utf-8")
        return page


def shown(run: Run) -> Pictures:
    """The pictures of a run, which a notebook also shows now."""
    pictures = pictures_of(run)
    ipython = sys.modules.get("IPython")
    if ipython and ipython.get_ipython():
        ipython.display.display(pictures)
    return pictures


def pictures_of(run: Run) -> Pictures:
    """The pictures of a run as far as it has come."""
    from segtrain.report.epochs import curves  # slow to import
    from segtrain.report.figures import Series, lines

    events = run.events()
    if not (scores := evaluations(events)):
        return Pictures(str(run.root))
    values = curves(train_events(events), scores)
    losses = [Series("training", values.loss, 0), Series("validation", values.val_loss, 1)]
    dsc = [Series(f"mean DSC, n = {scores[-1].n}", values.val_dsc, 0)]
    dsc += [Series(region, points, place) for place, (region, points) in enumerate(values.by_region.items(), start=1)]
    drawn = (lines("Loss", losses, "epoch"), lines("DSC of the validation patients", dsc, "epoch", unit=True))
    pictures = [run.validation_picture(event.epoch) for event in scores]
    newest = next((file for file in reversed(pictures) if file.is_file()), None)
    return Pictures(str(run.root), tuple(str(one.svg) for one in drawn), newest)
