"""The command `segtrain doctor`: what would fail in hours is found in seconds."""
