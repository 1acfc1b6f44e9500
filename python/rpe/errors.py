"""The one kind of exception that is the user's to mend: the command line prints its message without a
traceback.

`rpe.data.DataError` is its sibling for data; both are ValueErrors.
"""

from __future__ import annotations


class UserError(ValueError):
    """Something given by the user cannot be used: the message names it and the remedy."""
