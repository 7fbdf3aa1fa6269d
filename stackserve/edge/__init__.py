"""The HTTP edge: the only place that knows status codes, headers and JSON."""
