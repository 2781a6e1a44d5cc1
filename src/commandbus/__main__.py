"""`python -m commandbus`: the command line without an installed script."""

from commandbus.cli import main

if __name__ == "__main__":
    main()
