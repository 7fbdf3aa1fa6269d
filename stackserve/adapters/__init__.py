"""Adapters before an engine sees them: validation against the base, and the store."""

from stackserve.adapters.architecture import BaseArchitecture
from stackserve.adapters.codes import Code
from stackserve.adapters.composite import AdapterSource, Composite, Part, validate_source
from stackserve.adapters.store import AdapterStore
from stackserve.adapters.validate import AdapterLimits, ValidatedAdapter, validate_adapter

__all__ = [
    "AdapterLimits",
    "AdapterSource",
    "AdapterStore",
    "BaseArchitecture",
    "Code",
    "Composite",
    "Part",
    "ValidatedAdapter",
    "validate_adapter",
    "validate_source",
]
