"""Work in parts: what was done before a kill is kept, and what the kill cut in two is done again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from chatwright.inference.engine import Engine
from chatwright.records import Record
from chatwright.training.parts import in_parts


class Square(Record):
    """A number and its square."""

    number: int
    square: int


class Squares:
    """Makes squares, and remembers which were asked for together."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, numbers: Sequence[int]) -> list[Square]:
        self.asked.append(list(numbers))
        return [Square(number=number, square=number * number) for number in numbers]


class Counted:
    """An engine that only counts how often it begins anew."""

    def __init__(self) -> None:
        self.refreshed = 0

    def refresh(self) -> None:
        self.refreshed += 1


def squares(make: Any, folder: Path, size: int = 4, count: int = 10, **options: Any) -> list[Square]:
    """The squares of so many numbers, in parts."""
    return in_parts(range(count), size, make, Square, folder, "squares", **options)


@pytest.mark.parametrize("size", [1, 3, 5, 10, 64])
def test_the_size_of_the_parts_changes_nothing(tmp_path: Path, size: int) -> None:
    make = Squares()
    assert squares(make, tmp_path, size) == Squares()(range(10))
    assert [number for part in make.asked for number in part] == list(range(10))
    assert all(len(part) == size for part in make.asked[:-1])


def test_no_items_ask_for_nothing(tmp_path: Path) -> None:
    make = Squares()
    assert squares(make, tmp_path, count=0) == []
    assert make.asked == []
    assert list(tmp_path.iterdir()) == []


def test_what_was_done_before_it_broke_off_is_not_done_again(tmp_path: Path) -> None:
    make, engine = Squares(), Counted()

    def breaks_off(numbers: Sequence[int]) -> list[Square]:
        if numbers[0] == 4:
            raise KeyboardInterrupt
        return make(numbers)

    with pytest.raises(KeyboardInterrupt):
        squares(breaks_off, tmp_path)
    [part] = tmp_path.iterdir()
    before = part.stat().st_mtime_ns
    assert squares(make, tmp_path, engine=cast(Engine, engine)) == Squares()(range(10))
    assert make.asked == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert part.stat().st_mtime_ns == before
    assert engine.refreshed == 2, "anew before each part that is made, and only then"
    assert squares(make, tmp_path) == Squares()(range(10))
    assert len(make.asked) == 3, "all parts were there"


def test_two_works_with_folders_of_their_own_take_nothing_of_each_other(tmp_path: Path) -> None:
    squares(Squares(), tmp_path / "held out")
    make = Squares()
    squares(make, tmp_path / "training")
    assert len(make.asked) == 3


class Deadly(Sequence[Square]):
    """Records of which the second kills the process that writes them."""

    def __init__(self, records: list[Square]) -> None:
        self._records = records

    def __iter__(self) -> Iterator[Square]:
        yield self._records[0]
        os.kill(os.getpid(), signal.SIGKILL)

    def __getitem__(self, place: Any) -> Any:
        return self._records[place]

    def __len__(self) -> int:
        return len(self._records)


def dies_while_it_writes(folder: str) -> None:
    """Make the first part, and be killed in the middle of writing the second."""
    make = Squares()
    squares(lambda numbers: make(numbers) if numbers[0] == 0 else Deadly(make(numbers)), Path(folder))


def test_a_part_whose_writing_was_killed_is_made_again(tmp_path: Path) -> None:
    script = f"import runpy; runpy.run_path({__file__!r})['dies_while_it_writes']({str(tmp_path)!r})"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["00000000.jsonl"]
    make = Squares()
    assert squares(make, tmp_path) == Squares()(range(10))
    assert make.asked == [[4, 5, 6, 7], [8, 9]]
