"""Who calls: request signatures and bearer keys, checked before anything else sees a request."""
