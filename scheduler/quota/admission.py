"""May a job start, as far as quotas are concerned? Yes, and what of it is borrowed; or no, and what would change that.

On every level from the leaf to the root, for every resource the job asks for and the level names:

- `used + request <= max` (and `<= min + borrow`);
- what siblings keep from lending stays free: `taken + request <= max`, where a queue counts with its kept part if it uses less
  (koord-queue's rule); at the root also against what the cluster has;
- a job that must not be preempted fits into the mins: `firm + request <= min`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from forebay.scheduler.quota.amounts import JOBS, NOTHING, Amounts, check_request, show, show_all
from forebay.scheduler.quota.books import Books


@dataclass(frozen=True)
class Short:
    """One bound that a request breaks. `room` is what it still allows, `over` how much too much is asked."""

    queue: str
    resource: str
    asked: int
    used: int
    limit: int
    rule: str
    """`max`, `kept` (others do not lend what they do not use), `min` (not preemptible) or `cluster`."""
    kept: int = 0

    @property
    def room(self) -> int:
        return max(0, self.limit - self.used - self.kept)

    @property
    def over(self) -> int:
        return self.asked - self.room

    @property
    def hopeless(self) -> bool:
        """No waiting helps: the request alone is over the bound."""
        return self.asked > self.limit

    def sentence(self) -> str:
        """With counts and what would change it, no full stop."""
        asked, used, limit = (f"{show(self.resource, n)}" for n in (self.asked, self.used, self.limit))
        over, room = show(self.resource, self.over), show(self.resource, self.room)
        raised = f"raise its {_BOUND[self.rule]} to {show(self.resource, self.limit + self.over)}"
        if self.rule == "cluster":
            raised = f"add nodes with {over} more"
        what = f"{_BOUND[self.rule]} of {self.resource}"
        if self.hopeless:
            never = f'queue "{self.queue}" can never give {asked} {self.resource}: its {what} is {limit}'
            return f"{never}; ask for at most {limit}, or {raised}"
        ask = f"ask for at most {room}, or " if self.room else ""
        if self.rule == "kept":
            held = f"{used} in use and {show(self.resource, self.kept)} kept by queues that do not lend it"
            return (
                f'queue "{self.queue}" has {limit} {self.resource}, {held}, and {asked} are asked: {over} too many; '
                f"wait until {over} are freed below it, {ask}let those queues lend more"
            )
        whose = " of what is not preemptible" if self.rule == "min" else ""
        remedy = "mark the job preemptible" if self.rule == "min" else raised
        return (
            f'queue "{self.queue}" has {used} of {limit} {self.resource}{whose} in use and {asked} are asked: {over} too many; '
            f"wait until {over} are freed below it, {ask}{remedy}"
        )


_BOUND = {"max": "max", "kept": "max", "min": "min", "cluster": "capacity"}


@dataclass(frozen=True)
class Verdict:
    """The answer for one job. `borrowed`: the part of the request that is above the leaf's min; it may be reclaimed.

    `lender` is the lowest level inside which the borrowing stays: it is within its own floor, so nothing comes from outside.
    """

    queue: str
    shorts: tuple[Short, ...] = ()
    closed: str = ""
    borrowed: Amounts = field(default_factory=dict)
    lender: str = ""

    @property
    def admitted(self) -> bool:
        return not self.shorts and not self.closed

    def sentence(self) -> str:
        if self.closed:
            return f'queue "{self.queue}" admits nothing until this is mended: {self.closed}'
        if self.shorts:
            others = f" (and {len(self.shorts) - 1} more)" if len(self.shorts) > 1 else ""
            return max(self.shorts, key=lambda s: s.hopeless).sentence() + others
        if not self.queue:
            return "no quota governs it"
        if self.borrowed:
            return f'queue "{self.queue}" admits it; borrowed within "{self.lender}": {show_all(self.borrowed)}'
        return f'queue "{self.queue}" admits it within its min'


def admit(
    books: Books,
    queue: str,
    request: Amounts,
    totals: Amounts = NOTHING,
    *,
    preemptible: bool = True,
    jobs: int = 0,
) -> Verdict:
    """Whether a job of a leaf may start. `request` is the sum over its pods; `jobs` is 1 for one that does not run yet.

    `queue` "" (no quota) always may. Raises `ValueError` for an amount below 0, `KeyError` for a name that is no queue.
    """
    check_request(request)
    if not queue:
        return Verdict("")
    tree = books.tree
    closed = tree.closed_at(queue)
    if closed:
        return Verdict(queue, closed=closed)
    asked = {r: n for r, n in request.items() if n and r != JOBS}
    if jobs:
        asked[JOBS] = jobs
    path = books.path(queue)
    shorts = [
        s
        for resource, amount in asked.items()
        if resource in tree.resources
        for s in _bounds(books, path, resource, amount, totals.get(resource))
    ]
    if not preemptible:
        shorts += [s for name in path for s in _firm(books, name, asked)]
    if shorts:
        return Verdict(queue, tuple(shorts))
    borrowed = {r: part for r, n in asked.items() if (part := _above(books, queue, r, n))}
    lender = next((q for q in path if all(not _above(books, q, r, n) for r, n in asked.items())), tree.root)
    return Verdict(queue, borrowed=borrowed, lender=lender if borrowed else "")


def _bounds(books: Books, path: Sequence[str], resource: str, amount: int, total: int | None) -> list[Short]:
    shorts = []
    more = amount  # what the level sees taken beside what it has; eating into what the queue below keeps is no more
    for name in path:
        used, taken = books.used(name).get(resource, 0), books.taken(name, resource)
        kept = taken + more - used - amount
        ceiling = books.tree.ceilings[name].get(resource)
        if ceiling is not None and used + amount > ceiling:
            shorts.append(Short(name, resource, amount, used, ceiling, "max"))
        elif not more:
            pass  # it takes only what its own queue kept, and that was counted already
        elif ceiling is not None and taken + more > ceiling:
            shorts.append(Short(name, resource, amount, used, ceiling, "kept", kept))
        elif name == books.tree.root and total is not None and taken + more > total:
            shorts.append(Short(name, resource, amount, used, total, "kept" if kept else "cluster", kept))
        keep = books.tree.keeps[name].get(resource, 0)
        more = max(taken + more, keep) - max(taken, keep)
    return shorts


def _firm(books: Books, name: str, asked: Mapping[str, int]) -> list[Short]:
    shorts = []
    for resource, least in books.tree.queues[name].min.items():
        amount, firm = asked.get(resource, 0), books.firm(name).get(resource, 0)
        if amount and resource != JOBS and firm + amount > least:
            shorts.append(Short(name, resource, amount, firm, least, "min"))
    return shorts


def _above(books: Books, name: str, resource: str, amount: int) -> int:
    """How much of a request is above a queue's floor. 0 where no queue of the tree names the resource."""
    if resource not in books.tree.resources:
        return 0
    used, floor = books.used(name).get(resource, 0), books.tree.floors[name].get(resource, 0)
    return max(0, used + amount - max(used, floor))


def borrowed(books: Books) -> dict[str, Amounts]:
    """What each queue uses above its floor now; queues that borrow nothing are left out."""
    tree = books.tree
    result: dict[str, Amounts] = {}
    for name in tree.queues:
        if name == tree.root:
            continue
        over = {r: n - f for r, n in books.used(name).items() if r in tree.resources and n > (f := tree.floors[name].get(r, 0))}
        if over:
            result[name] = over
    return result
