"""Models of other frameworks than vLLM, inside their worker: nothing here knows of the gateway.

A worker may be of another virtual environment than the gateway, so what it imports is the standard
library, numpy, msgspec and its one framework.
"""
