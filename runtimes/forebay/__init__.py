"""Our own engine: workers that cache a dataset on the disks of nodes and find each other without a master."""

from __future__ import annotations

from collections.abc import Iterable

from forebay.api.fluid.engine_class import NAME
from forebay.runtimes.engine import Engine, Found, Loading, Object, Observed, Plan, Ref, Subject
from forebay.runtimes.forebay import loading, names, observing, planning


class Forebay:
    """Serves CacheRuntimes of class `forebay`, and every other kind where it is asked to."""

    name = NAME
    drives: frozenset[str] = frozenset()
    classes = frozenset({NAME})
    adopts = True

    def children(self, subject: Subject) -> Iterable[Ref]:
        return names.children(names.names_of(subject))

    def plan(self, subject: Subject, found: Found, now: str) -> Plan:
        return planning.plan(subject, found, now)

    def retire(self, subject: Subject, found: Found) -> Plan:
        return planning.retire(subject, found)

    def observe(self, subject: Subject, found: Found, now: str) -> Observed:
        return observing.observe(subject, found, now)

    def loading(self, subject: Subject, load: Object) -> Loading:
        return loading.loading(subject, load)


ENGINE: Engine = Forebay()
