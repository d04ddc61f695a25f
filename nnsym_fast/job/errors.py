# SPDX-License-Identifier: MIT
"""The one exception of the job: something about the input or the machine that the user can mend."""

from __future__ import annotations

__all__ = ["Interrupted", "JobError"]


class JobError(Exception):
    """A one-line message for the user: what is wrong, with which file, and the remedy."""


class Interrupted(JobError):
    """The run was stopped from the keyboard; the store is intact and the same command resumes it."""
