"""From what is configured to what runs: groups are read and validated, their workers kept alive."""
