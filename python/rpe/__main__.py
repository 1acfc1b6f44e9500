"""`python -m rpe`: the same as the `rpe` command."""

from .cli import main

main()
