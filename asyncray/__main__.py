"""``python -m asyncray``: the same as the ``asyncray`` command."""

from asyncray.cli import main

if __name__ == "__main__":
    main(prog_name="asyncray")
