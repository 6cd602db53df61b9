"""A store told by one rank to the others, which open it without a look at each file."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from segtrain.config import DataConfig
from segtrain.data.store import Store, is_built, open_store
from segtrain.data.store_folder import stores_folder


@dataclass(frozen=True)
class StoreNote:
    """What the others need besides the index. name: of the store's folder; the rest: see `Store`."""

    name: str
    label: str
    regions: Mapping[str, tuple[int, ...]] | None
    source: str | None
    licence: str | None

    @classmethod
    def of(cls, store: Store) -> "StoreNote":
        """That of a store which `ensure_store` gave."""
        return cls(store.path.name, store.label, store.regions, store.source, store.licence)

    def open(self, cfg: DataConfig) -> Store | None:
        """The same store, in this machine's folder of stores; None where it is not there. Raises DataError."""
        path = stores_folder(cfg) / self.name
        if not is_built(path):
            return None
        store = open_store(path, check_files=False)
        return replace(store, label=self.label, regions=self.regions, source=self.source, licence=self.licence)
