"""The demo: one small real base, four real fine-tunes of it, each seen at a glance."""
