"""Command-line flags of the benchmarks: a bad value ends in one sentence that names flag and remedy."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import NoReturn

RESULTS = Path("benchmark-results")


class Parser(argparse.ArgumentParser):
    """Says one sentence and exits with 2, instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """An integer within bounds."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(
                f"{text!r} will not do; give a whole number from {least} to {most}"
            )
        return number

    return parse


def whole_numbers(least: int, most: int) -> Callable[[str], tuple[int, ...]]:
    """Integers within bounds with commas between them, each once."""
    one = whole_number(least, most)

    def parse(text: str) -> tuple[int, ...]:
        return tuple(dict.fromkeys(one(part.strip()) for part in text.split(",")))

    return parse


def ranks_of(most: int, mixed: str) -> Callable[[str], tuple[str, ...]]:
    """Ranks with commas between them, each a number or the name of a mix."""
    one = whole_number(1, most)

    def parse(text: str) -> tuple[str, ...]:
        found = []
        for part in (each.strip() for each in text.split(",")):
            try:
                found.append(mixed if part == mixed else str(one(part)))
            except argparse.ArgumentTypeError as wrong:
                raise argparse.ArgumentTypeError(f"{wrong}, or {mixed!r}") from None
        return tuple(dict.fromkeys(found))

    return parse


def names_of(known: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    """Names out of `known` with commas between them, in the order of `known`."""

    def parse(text: str) -> tuple[str, ...]:
        given = [part.strip() for part in text.split(",")]
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"{name!r} is unknown; choose from {', '.join(known)}"
                )
        return tuple(name for name in known if name in given)

    return parse


def folder(text: str) -> Path:
    """A folder that exists or can be made below the nearest one that does."""
    path = Path(text)
    nearest = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not nearest.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is or lies below a file; name a folder")
    return path


def default_folder(benchmark: str) -> Path:
    """A new folder for each run, so that no run overwrites another's numbers."""
    return RESULTS / f"{benchmark}-{datetime.now():%Y%m%d-%H%M%S}"
