"""Metrics as Prometheus reads them, for tests that look at some."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families


class Metrics:
    """Samples of a text, by name and labels. A text that repeats a metric or a series is wrong."""

    def __init__(self, text: str | Iterable[str]) -> None:
        whole = text if isinstance(text, str) else "".join(text)
        self.kinds: dict[str, str] = {}
        self.samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(whole):
            assert family.name not in self.kinds, f"{family.name} stands in two places"
            assert family.documentation, f"{family.name} has no help"
            self.kinds[family.name] = family.type
            for sample in family.samples:
                series = sample.name, frozenset(sample.labels.items())
                assert series not in self.samples, f"{series} is there twice"
                self.samples[series] = sample.value

    def __call__(self, name: str, **labels: str) -> float:
        """The value of one series. KeyError if there is none."""
        return self.samples[name, frozenset(labels.items())]

    def labels(self, name: str) -> list[dict[str, str]]:
        """The labels of each series of a name, in order."""
        return [dict(labels) for each, labels in self.samples if each == name]
