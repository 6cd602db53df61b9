"""The pages of the site; pages.py makes those of the reference."""
