"""The control plane's HTTP: OCI's Data Science REST API, as its official clients speak it."""
