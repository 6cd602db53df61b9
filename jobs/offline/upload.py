"""One upload of a folder's files to its mirror: what is there whole is not sent again, what is damaged is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.offline.location import Location
from jobs.offline.objects import Entry, Proven, send, still
from segtrain.run import layout

ROUNDS = 3  # of an upload, until the store lists everything as it was sent


@dataclass
class Upload:
    """The upload of `folder` to the objects of its mirror, and what it has found so far."""

    objects: Location
    folder: Path
    proven: Proven
    entries: dict[str, Entry] = field(default_factory=dict)  # of the files, by path in the folder
    bytes_sent: int = 0

    def send(self, files: Sequence[Path]) -> None:
        """Send files until the store lists all of them as they are here. Raises OSError: it does not."""
        self.objects.make_folder()
        for _ in range(ROUNDS):
            listing = self.objects.listing()
            sent: set[str] = set()
            for file in files:
                self._send_file(file, listing, sent)
            listing = self.objects.listing()
            files = [file for file in files if not self._has_arrived(self._name(file), listing)]
            if not files:
                return
        raise OSError(f"{self.objects}: {len(files)} files are not what was sent, the first is {files[0]}")

    def holds(self, entries: Iterable[Entry]) -> bool:
        """Whether the mirror has all of this whole, at least once."""
        listing = self.objects.listing()
        return all(any(self._is_whole(name, listing, entry) for name in entry.objects) for entry in entries)

    def _name(self, file: Path) -> str:
        return file.relative_to(self.folder).as_posix()

    def _send_file(self, file: Path, listing: Mapping[str, Mapping[str, Any]], sent: set[str]) -> None:
        name = self._name(file)
        with still(file, grows=not name.startswith(f"{layout.CHECKPOINTS}/")) as stream:
            entry = self.entries[name] = Entry.of(stream)
            for object_name in entry.objects:
                if object_name not in sent and not self._is_whole(object_name, listing, entry):
                    send(stream, self.objects / object_name)
                    sent.add(object_name)
                    self.bytes_sent += entry.bytes

    def _has_arrived(self, name: str, listing: Mapping[str, Mapping[str, Any]]) -> bool:
        entry = self.entries[name]
        return all(self._is_whole(each, listing, entry) for each in entry.objects)

    def _is_whole(self, object_name: str, listing: Mapping[str, Mapping[str, Any]], entry: Entry) -> bool:
        return self.proven.holds(self.objects / object_name, listing.get(object_name), entry)
