"""All that is known of gangs: the objects as they are now, and what pods say of themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.gang import Gang, Member
from forebay.scheduler.groups import native, podgroup, volcano
from forebay.scheduler.groups.said import Naming, Object, Reference, Said
from forebay.scheduler.groups.spec import Part, Spec, need, reached


class Source(NamedTuple):
    """A kind of object that describes gangs; the newest version first. `name` is how `Groups.set` is told of one."""

    group: str
    versions: tuple[str, ...]
    plural: str
    kind: str

    @property
    def name(self) -> str:
        return f"{self.kind}.{self.group}"


SOURCES = (
    Source("scheduling.k8s.io", ("v1beta1", "v1alpha2"), "podgroups", "PodGroup"),
    Source("scheduling.x-k8s.io", ("v1alpha1",), "podgroups", "PodGroup"),
    Source("scheduling.sigs.k8s.io", ("v1alpha1",), "podgroups", "PodGroup"),
    Source("scheduling.volcano.sh", ("v1beta1",), "podgroups", "PodGroup"),
)

_READERS: dict[str, Callable[[Object], Said]] = {
    native.KIND: native.read,
    volcano.KIND: volcano.read,
    **{kind: partial(podgroup.read, kind) for kind in podgroup.KINDS},
}
_SPACES = {native.KIND: native.SPACE, volcano.KIND: volcano.SPACE, **dict.fromkeys(podgroup.KINDS, "")}


class Membership(NamedTuple):
    """`gang`: the key of what is decided at once; `group`: the pod's part of it, a task or one of several gangs."""

    gang: str
    group: str = ""


class Groups:
    """Objects by kind and full name. Everything else is worked out from the pods that are asked about.

    One thing is remembered: gangs that have been seen with all the nodes they need, because `once-satisfied` asks for it and
    no object says so. It is forgotten with the last pod that has a node.
    """

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], Said] = {}
        self._ran = set[str]()
        self._classes: dict[str, int] = {}

    # what comes in

    def set(self, kind: str, value: Object) -> bool:
        """An object as it is now; `kind` is a `Source.name`. Whether that is news. Raises KeyError for another kind."""
        said = _READERS[kind](value)
        assert said.about is not None
        key = kind, f"{said.about.namespace}/{said.about.name}"
        before, self._said[key] = self._said.get(key), said
        return before != said

    def remove(self, kind: str, namespace: str, name: str) -> bool:
        """An object that is gone. Whether it was known."""
        return self._said.pop((kind, f"{namespace}/{name}"), None) is not None

    def set_class(self, name: str, value: int | None) -> bool:
        """What a PriorityClass is worth, None for one that is gone. Whether that is news."""
        before = self._classes.get(name)
        if value is None:
            self._classes.pop(name, None)
        else:
            self._classes[name] = value
        return before != value

    # what is asked

    def membership(self, pod: Pod) -> Membership | None:
        """Where the pod belongs; None for a pod that needs no company. A pod that contradicts itself is of its first gang."""
        named = self._namings(pod)
        if not named:
            return None
        chosen = self._chosen(named)
        told = self._object(chosen)
        if told is not None and told.single and len(named) == 1:
            return None
        together = (told.partners if told is not None else ()) or chosen.said.partners
        if len(together) > 1 and chosen.name in together:
            return Membership("+".join(together), chosen.name)
        return Membership(chosen.key, chosen.group)

    def priority(self, pod: Pod) -> int:
        """What its gang's object says, by number or by class, else its own. Of several gangs that start together the highest
        decides."""
        told = self._object(self._chosen(named)) if (named := self._namings(pod)) else None
        if told is None:
            return pod.spec.priority
        if told.priority is not None:
            return told.priority
        return self._classes.get(told.priority_class, pod.spec.priority)

    def named(self, pod: Pod) -> tuple[str, str]:
        """Which of all groups the pod names, by a key that `described` takes, and its task; "" for none."""
        if not (named := self._namings(pod)):
            return "", ""
        chosen = self._chosen(named)
        return chosen.key, chosen.group

    def key(self, kind: str, name: str) -> str:
        """Of an object's kind and full name, as in `named`."""
        return f"{_SPACES[kind]}:{name}" if _SPACES[kind] else name

    def described(self, key: str) -> tuple[str, Said] | None:
        """The object that counts for pods of that key: its kind, and what it says. None where there is none."""
        space, _, name = key.rpartition(":")
        for kind, its in _SPACES.items():
            if its == space and (said := self._said.get((kind, name))) is not None:
                return kind, said
        return None

    def part(self, pod: Pod) -> str:
        """Its part of its gang, "" for none."""
        member = self.membership(pod)
        return member.group if member is not None else ""

    def spec(self, gang: str, pods: Iterable[Pod]) -> Spec | str:
        """What is said of a gang, from its objects and these pods of it; a sentence for what is missing or contradicts itself."""
        by_name = dict[str, list[Naming]]()
        priority = 0
        for pod in pods:
            named = self._namings(pod)
            problem = self._contradiction(pod, named)
            if problem:
                return problem
            chosen = self._chosen(named)
            by_name.setdefault(chosen.name, []).append(chosen)
            priority = max(priority, pod.spec.priority)
        if not by_name:
            return f"gang {gang}: none of its pods exist"
        parts, said = list[Part](), list[Said]()
        for name, namings in sorted(by_name.items()):
            told = self._agreed(name, namings)
            if isinstance(told, str):
                return told
            together = told.partners
            if together and name not in together:
                return f"{told.source}: its gang group {', '.join(together)} does not name {name} itself; add it"
            missing = sorted(set(together) - by_name.keys())
            if missing:
                return (
                    f"{told.source}: its gang group starts at once, and no pod of {', '.join(missing)} names it; create those "
                    "pods, or let their own list of gangs be the same"
                )
            assert told.minimum is not None
            policy = told.policy or podgroup.DEFAULT
            key = namings[0].key
            parts.append(Part(key, name, told.source, told.minimum, told.group_minimum, policy, told.satisfied, told.about))
            said.append(told)
        return Spec(
            gang,
            tuple(parts),
            max((one.timeout or 0.0 for one in said), default=0.0),
            max((one.priority for one in said if one.priority is not None), default=priority),
            next((one.priority_class for one in said if one.priority_class), ""),
            next((one.queue for one in said if one.queue), ""),
            any(one.together for one in said),
        )

    def gather(self, gang: str, waiting: Sequence[tuple[Pod, Member]], bound: Sequence[Pod]) -> Gang | str:
        """The gang to be planned, of the pods that wait; a sentence why not yet.

        `bound`: all its pods that have a node, also those that ended or leave. A minimum of 0 means that the gang has what it
        needs: each pod that waits may go on its own.
        """
        spec = self.spec(gang, [*(pod for pod, _ in waiting), *bound])
        if isinstance(spec, str):
            return spec
        several = len(spec.parts) > 1
        minimum, groups = 0, dict[str, int]()
        for part in spec.parts:
            there = [member.group for pod, member in waiting if self._name(pod) == part.name]
            have = [(self._group(pod), pod) for pod in bound if self._name(pod) == part.name]
            asked = need(part, there, have, self._has_run(part, [pod for _, pod in have]))
            if asked.short:
                return asked.short
            minimum += asked.minimum
            groups |= {part.name: asked.minimum} if several and asked.minimum else asked.group_minimum
        return Gang(gang, tuple(member for _, member in waiting), minimum, groups)

    def regarding(self, gang: str) -> Reference | None:
        """The object that describes a gang, for Events; None where only labels do. Of several the first."""
        space, _, names = gang.rpartition(":")
        for name in names.split("+"):
            for (kind, full_name), said in self._said.items():
                if full_name == name and _SPACES[kind] == space:
                    return said.about
        return None

    # how

    def _namings(self, pod: Pod) -> list[Naming]:
        """What the pod names, in each family."""
        return [one for one in (native.naming(pod), volcano.naming(pod), podgroup.naming(pod)) if one is not None]

    def _chosen(self, named: Sequence[Naming]) -> Naming:
        """The one that counts: with an object that exists, else the first."""
        return next((one for one in named if self._object(one) is not None), named[0])

    def _contradiction(self, pod: Pod, named: Sequence[Naming]) -> str:
        if len({one.name for one in named}) > 1:
            told = " and ".join(one.key for one in named)
            return f"Pod {pod.metadata.namespace}/{pod.metadata.name}: names gangs of several APIs, {told}; remove all but one"
        return next((one.said.mistake for one in named if one.said.mistake), "")

    def _object(self, naming: Naming) -> Said | None:
        return next((self._said[kind, naming.name] for kind in naming.kinds if (kind, naming.name) in self._said), None)

    def _agreed(self, name: str, named: Sequence[Naming]) -> Said | str:
        """What holds for the gang: its object, which its pods may not contradict; without one, what its pods agree on."""
        told = self._object(named[0])
        if told is not None:
            if told.mistake:
                return told.mistake
            for one in named:
                if one.said.minimum not in (None, told.minimum):
                    return (
                        f"{one.said.source}: says that gang {name} needs {one.said.minimum} pods, {told.source} says "
                        f"{told.minimum}; make them equal, or remove it from the pod"
                    )
            return told
        if all(one.needs_object for one in named):
            kinds = " or ".join(kind.partition(".")[2] for kind in named[0].kinds)
            return f"{named[0].said.source}: names PodGroup {name} ({kinds}), which does not exist; create it"
        return self._by_pods(name, named)

    def _by_pods(self, name: str, named: Sequence[Naming]) -> Said | str:
        said = [one.said for one in named]
        for what, values in (
            ("minimum", [(one, one.minimum) for one in said if one.minimum is not None]),
            ("match policy", [(one, one.policy) for one in said if one.policy is not None]),
            ("gang group", [(one, one.partners) for one in said if one.partners]),
        ):
            for other, value in values[1:]:
                first, there = values[0]
                if value != there:
                    return (
                        f"gang {name}: labels contradict each other, {what} {_shown(there)} in {first.source} and "
                        f"{_shown(value)} in {other.source}; make them equal"
                    )
        minimum = next((one.minimum for one in said if one.minimum is not None), None)
        if minimum is None:
            return f"gang {name}: no pod says how many it needs; add label {podgroup.ACK_MINIMUM} or create PodGroup {name}"
        return Said(
            f"gang {name}",
            minimum,
            policy=next((one.policy for one in said if one.policy is not None), None),
            partners=next((one.partners for one in said if one.partners), ()),
            timeout=max((one.timeout or 0.0 for one in said), default=0.0) or None,
        )

    def _name(self, pod: Pod) -> str:
        return self._chosen(self._namings(pod)).name

    def _group(self, pod: Pod) -> str:
        return self._chosen(self._namings(pod)).group

    def _has_run(self, part: Part, bound: Sequence[Pod]) -> bool:
        if not bound:
            self._ran.discard(part.key)
        elif reached(part, bound):
            self._ran.add(part.key)
        return part.key in self._ran


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
