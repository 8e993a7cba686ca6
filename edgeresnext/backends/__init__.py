"""Runtimes, one file each, behind the two interfaces of `base`."""
