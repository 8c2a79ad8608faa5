"""From the APIs' objects to gangs: who belongs together, how many must start at once, and what is wrong with it. Pure."""

from forebay.scheduler.groups.groups import SOURCES, Groups, Membership, Source
from forebay.scheduler.groups.size import too_large
from forebay.scheduler.groups.spec import Part, Spec

__all__ = ["SOURCES", "Groups", "Membership", "Part", "Source", "Spec", "too_large"]
