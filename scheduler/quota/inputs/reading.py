"""Reading fields of quota objects that may hold anything. What is wrong becomes a finding, and the queue's `mistake`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from forebay.api.quantity import QuantityError
from forebay.scheduler.pods.fill import Fill, Order
from forebay.scheduler.quota.amounts import Amounts, parse_amount, render_amount
from forebay.scheduler.quota.inputs.check import Findings

Object = Mapping[str, object]


class Fields:
    """One object, or one node of one. `mistake` is the sentence of the first error that leaves a bound unknown, "" while there
    is none."""

    def __init__(self, value: object, source: str, path: str, findings: Findings) -> None:
        self.source = source
        self.path = path
        self.mistake = ""
        self._findings = findings
        self._fields: Object = {}
        if isinstance(value, Mapping):
            self._fields = value
        elif value is not None:
            self._error("", value, "is no mapping", "write fields with values")

    def names(self) -> list[str]:
        return [str(k) for k in self._fields]

    def at(self, name: str) -> object:
        return self._fields.get(name)

    def below(self, name: str) -> Fields:
        """A mapping inside; its mistakes are this one's."""
        fields = Fields(self.at(name), self.source, self._field(name), self._findings)
        self.mistake = self.mistake or fields.mistake
        return fields

    def text(self, name: str, default: str = "") -> str:
        value = self.at(name)
        if value is None or isinstance(value, str):
            return value if value is not None else default
        self._error(name, value, "is no string", f'write it in quotes, such as "{value}"')
        return str(value)

    def strings(self, name: str) -> tuple[str, ...]:
        return self._strings(name, self.at(name))

    def json_strings(self, name: str) -> tuple[str, ...]:
        """A list of strings that is written as JSON, as annotations hold it."""
        return self._strings(name, self._json(name, '["team-a","team-b"]'))

    def amounts(self, name: str) -> dict[str, int]:
        return self._amounts(name, self.at(name))

    def json_amounts(self, name: str) -> dict[str, int]:
        """A resource list that is written as JSON."""
        return self._amounts(name, self._json(name, '{"cpu":"4","memory":"8Gi"}'))

    def items(self, name: str) -> Sequence[object]:
        value = self.at(name)
        if value is None or (isinstance(value, Sequence) and not isinstance(value, str)):
            return value or ()
        self._error(name, value, "is no list", "write a list")
        return ()

    def flag(self, name: str, default: bool) -> bool:
        """A label's "true" or "false"; anything else counts as the default, with a warning."""
        value = self.at(name)
        if value in (None, "true", "false", True, False):
            return default if value is None else value in ("true", True)
        word = "true" if default else "false"
        self.warn(name, value, f'is neither "true" nor "false" and counts as "{word}"', 'write "true" or "false"')
        return default

    def seconds(self, name: str) -> float:
        """A number of seconds, as text or number; 0 if it is missing. A bad one counts as 0, with a warning."""
        value = self.at(name)
        try:
            number = 0.0 if value is None else float(str(value))
        except ValueError:
            number = -1.0
        if 0 <= number < 1e10:
            return number
        self.warn(name, value, "is no number of seconds and counts as 0", "write seconds, such as 600")
        return 0.0

    def fill(self, nodes: str, cards: str) -> Fill:
        """How nodes and cards are filled, by two fields; what is neither of the two words counts as not said, with a warning."""
        return Fill(self._order(nodes), self._order(cards))

    def _order(self, name: str) -> Order:
        value = self.at(name)
        if value == "binpack":
            return "binpack"
        if value == "spread":
            return "spread"
        if value not in (None, ""):
            self.warn(name, value, "is no way to fill and counts as not said", "write binpack or spread")
        return ""

    def warn(self, name: str, value: object, message: str, remedy: str) -> None:
        self._findings.add("warning", self.source, self._field(name), value, message, remedy)

    def missing(self, name: str, remedy: str) -> None:
        self._error(name, None, "is missing", remedy)

    def _strings(self, name: str, value: object) -> tuple[str, ...]:
        if value is None:
            return ()
        if isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(v, str) for v in value):
            return tuple(str(v) for v in value)
        self._error(name, value, "is no list of strings", 'write a list, such as ["team-a"]')
        return ()

    def _amounts(self, name: str, value: object) -> dict[str, int]:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self._error(name, value, "is no mapping of resources to quantities", "write a mapping, such as {cpu: 4, memory: 8Gi}")
            return {}
        amounts: dict[str, int] = {}
        for resource, quantity in value.items():
            try:
                amounts[str(resource)] = parse_amount(str(resource), quantity)
            except QuantityError as e:
                self._error(f"{name}.{resource}", quantity, str(e), e.remedy)
        return amounts

    def _json(self, name: str, example: str) -> object:
        text = self.text(name)
        if not text:
            return None
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            self._error(name, text, "is no JSON", f"write JSON, such as {example}")
            return None

    def _error(self, name: str, value: object, message: str, remedy: str) -> None:
        sentence = self._findings.add("error", self.source, self._field(name), value, message, remedy)
        self.mistake = self.mistake or sentence

    def _field(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path and name else self.path or name


def render(amounts: Amounts) -> dict[str, str]:
    """A resource list as Kubernetes has it."""
    return {resource: render_amount(resource, amount) for resource, amount in amounts.items()}


def render_json(amounts: Amounts) -> str:
    return json.dumps(render(amounts), sort_keys=True, separators=(",", ":"))
