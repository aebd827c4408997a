"""Errors a person is meant to read: one plain sentence each, with the exit code of the command line."""

from __future__ import annotations


class MedsegError(Exception):
    """Base of every error that is shown to the user as one sentence, without a traceback."""

    exit_code = 1


class InputError(MedsegError):
    """A file or value cannot be used: what it is, what is wrong, what would be accepted."""


class OtherRunError(InputError):
    """An unfinished run is not the one that is asked for."""


class RefusedError(MedsegError):
    """Refused for safety: an untrusted bundle, a wrong checksum, a path outside the target."""

    exit_code = 3


class CancelledError(MedsegError):
    """The user asked to stop; whatever was written is valid and can be resumed."""

    exit_code = 130
