"""`python -m edgeresnext` is the command line."""

from edgeresnext.cli.main import main

main()
