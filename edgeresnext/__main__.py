"""`python -m edgeresnext` is the command line."""

from edgeresnext.cli import main

main()
