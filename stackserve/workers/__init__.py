"""Engine workers as the gateway sees them: processes, their supervision, and the way to reach them."""
