"""What may not be said here: rules, and a classifier where one was trained, behind one `Moderator`."""

from chatwright.service.moderation.moderator import CATEGORIES, Decision, Moderator

__all__ = ["CATEGORIES", "Decision", "Moderator"]
