"""The same training in segtrain and in other programs, each in an environment and in processes of its own."""
