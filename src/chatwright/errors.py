"""The one exception that a user of chatwright is meant to see."""


class UserError(Exception):
    """A mistake of the user: one clear sentence that says what is wrong and what to do.

    The command line prints it and exits with status 2; the service answers 400. A broken invariant of our own is an
    ``assert`` or another exception, never this one.
    """
