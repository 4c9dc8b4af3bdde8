"""What may not be said here: rules, and a classifier where one was trained, behind one `Moderator`."""

from chatwright.service.moderation.moderator import CATEGORIES, CHECK_CHARACTERS, Decision, Moderator, judge

__all__ = ["CATEGORIES", "CHECK_CHARACTERS", "Decision", "Moderator", "judge"]
