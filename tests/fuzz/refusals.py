"""What is put into a folder, and what the reader says of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from segtrain.errors import LONGEST_MESSAGE, SegtrainError

DEEP = "[" * 5000 + "]" * 5000
DIGITS = "1" * 5000


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(SegtrainError) as refused:
        call()
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < LONGEST_MESSAGE + 10
    return str(refused.value)


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
