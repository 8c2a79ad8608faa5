"""Policies by name. Adding one is a file and a line here."""

from __future__ import annotations

import difflib

from forebay.scheduler.policies.base import Policy, Rating, Setting
from forebay.scheduler.policies.bestfit import BestFit
from forebay.scheduler.policies.clustering import Clustering
from forebay.scheduler.policies.dotprod import DotProd
from forebay.scheduler.policies.fgd import FGD
from forebay.scheduler.policies.forebay import Forebay
from forebay.scheduler.policies.packing import Packing
from forebay.scheduler.policies.random import Random

__all__ = ["POLICIES", "Policy", "Rating", "Setting", "make"]

POLICIES: dict[str, type[Random | DotProd | Clustering | Packing | BestFit | FGD | Forebay]] = {
    kind.name: kind for kind in (Random, DotProd, Clustering, Packing, BestFit, FGD, Forebay)
}


def make(name: str, setting: Setting) -> Policy:
    """The named policy. Raises ValueError with the names there are."""
    if name not in POLICIES:
        raise ValueError(unknown(name))
    return POLICIES[name](setting)


def unknown(name: str) -> str:
    """What to say of a name that is no policy's."""
    near = difflib.get_close_matches(name, POLICIES, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"choose of {', '.join(POLICIES)}"
    return f'there is no policy "{name}": {hint}'
