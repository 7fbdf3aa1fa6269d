"""Adapters before an engine sees them: validation against the base, and the store."""

from stackserve.adapters.architecture import BaseArchitecture
from stackserve.adapters.codes import Code
from stackserve.adapters.composite import AdapterSource, Composite, Part, validate_source
from stackserve.adapters.store import AdapterStore
from stackserve.adapters.validate import (
    AdapterFacts,
    check_fit,
    inspect_adapter,
    validate_adapter,
)
from stackserve.adapters.validated import AdapterLimits, ValidatedAdapter

__all__ = [
    "AdapterFacts",
    "AdapterLimits",
    "AdapterSource",
    "AdapterStore",
    "BaseArchitecture",
    "Code",
    "Composite",
    "Part",
    "ValidatedAdapter",
    "check_fit",
    "inspect_adapter",
    "validate_adapter",
    "validate_source",
]
