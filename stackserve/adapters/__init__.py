"""Adapters before an engine sees them: validation against the base, and the store."""

from stackserve.adapters.architecture import BaseArchitecture
from stackserve.adapters.codes import Code
from stackserve.adapters.store import AdapterStore
from stackserve.adapters.validate import AdapterLimits, ValidatedAdapter, validate_adapter

__all__ = [
    "AdapterLimits",
    "AdapterStore",
    "BaseArchitecture",
    "Code",
    "ValidatedAdapter",
    "validate_adapter",
]
