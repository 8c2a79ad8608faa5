"""CEL selectors of requests and device classes, evaluated for one device.

    selector = compiled("device.driver == 'gpu.example.com' && device.attributes['gpu.example.com'].model == 'a'")
    selector.matches(device)

The language is evaluated by cel-python (the extra `claims`); this adds what Kubernetes adds: `device`, quantities, versions. A
selector that fails on a device (an attribute that is not there, unlike types) is an error, not "no": as in Kubernetes the
claim is not allocated then, and the sentence names device and selector.

Source: `resource.k8s.io/v1` CELDeviceSelector; Kubernetes' CEL libraries for quantities and semantic versions.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache, total_ordering
from typing import Any

from forebay.api.kubernetes.resource import SliceDevice
from forebay.api.quantity import QuantityError, parse_exact
from forebay.scheduler.claims.semver import Version

LONGEST = 10 * 1024
"""Characters of an expression (`CELSelectorExpressionMaxLength`)."""
REMEMBERED = 65_536
"""Answers kept of one selector."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WIDE = frozenset(("all", "exists", "exists_one", "filter", "map", "size"))
"""Words that may look at attributes which the expression does not name."""

EXTRA = "the CEL library is not installed: pip install 'forebay[claims]'"


class SelectorError(ValueError):
    """An expression that is none, or that a device makes fail. One sentence."""


@total_ordering
class Quantity:
    """`quantity("10Gi")`, and the values of `device.capacity`. Exact."""

    __slots__ = ("amount",)

    def __init__(self, amount: Fraction) -> None:
        self.amount = amount

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantity) and self.amount == other.amount

    def __lt__(self, other: Quantity) -> bool:
        return self.amount < other.amount

    def __hash__(self) -> int:
        return hash(self.amount)


class Selector:
    """One expression. Equal ones are one object: `compiled`."""

    def __init__(self, expression: str) -> None:
        self.expression = expression
        self._words = frozenset(_NAME.findall(expression))
        self._narrow = not self._words & _WIDE
        self._known: dict[object, bool | str] = {}
        self._cel = _library()
        environment = self._cel.Environment(runner_class=self._cel.InterpretedRunner)
        try:
            if len(expression) > LONGEST:
                raise ValueError(f"has more than {LONGEST} characters")
            self._program = environment.program(environment.compile(expression), functions=_functions(self._cel))
        except (self._cel.CELParseError, ValueError) as wrong:
            text = str(wrong).splitlines()[0] if str(wrong) else "syntax"
            raise SelectorError(f"selector {expression!r} is not understood here: {text}") from wrong

    def matches(self, driver: str, device: SliceDevice) -> bool:
        """Whether the device is meant. Raises SelectorError where it cannot be evaluated for it."""
        key = self._key(driver, device)
        answer = self._known.get(key)
        if answer is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            answer = self._known[key] = self._evaluate(driver, device)
        if isinstance(answer, str):
            raise SelectorError(f"selector {self.expression!r} fails on device {device.name} of {driver}: {answer}")
        return answer

    def _key(self, driver: str, device: SliceDevice) -> object:
        """Devices that differ in nothing that the expression names are answered alike: cards differ in their uuid."""
        attributes = tuple((name, one.kind, one.value) for name, one in device.attributes.items() if self._named(name))
        capacity = tuple((name, str(one.value)) for name, one in device.capacity.items() if self._named(name))
        return driver, bool(device.allow_multiple_allocations), attributes, capacity

    def _named(self, name: str) -> bool:
        return not self._narrow or name.rpartition("/")[2] in self._words

    def _evaluate(self, driver: str, device: SliceDevice) -> bool | str:
        cel, types = self._cel, self._cel.celtypes
        try:
            found = self._program.evaluate({"device": _view(types, driver, device)})
        except cel.CELEvalError as wrong:
            return str(wrong.args[0]) if wrong.args else "it has no answer"
        except (SelectorError, QuantityError, ValueError, TypeError, KeyError) as wrong:
            return str(wrong)
        if not isinstance(found, types.BoolType | bool):
            return f"the answer {found!r} is neither true nor false"
        return bool(found)


@lru_cache(maxsize=4096)
def compiled(expression: str) -> Selector:
    """Raises SelectorError for what is no expression, and where the library is missing."""
    return Selector(expression)


def _library() -> Any:
    try:
        return importlib.import_module("celpy")
    except ImportError as missing:
        raise SelectorError(EXTRA) from missing


def _view(types: Any, driver: str, device: SliceDevice) -> Any:
    """`device` as expressions see it. Names without a domain belong to the driver; a domain that is not there is empty."""

    class Domains(types.MapType):  # type: ignore[misc]
        def __getitem__(self, key: Any) -> Any:
            return super().__getitem__(key) if key in self else types.MapType({})

    def grouped(values: Mapping[str, Any]) -> Any:
        domains: dict[Any, dict[Any, Any]] = {}
        for name, value in values.items():
            domain, _, short = name.rpartition("/")
            domains.setdefault(types.StringType(domain or driver), {})[types.StringType(short)] = value
        return Domains({domain: types.MapType(inner) for domain, inner in domains.items()})

    attributes = {name: _attribute(types, one.kind, one.value) for name, one in device.attributes.items() if one.kind}
    capacity = {name: Quantity(parse_exact(one.value)) for name, one in device.capacity.items()}
    fields = {
        "driver": types.StringType(driver),
        "allowMultipleAllocations": types.BoolType(bool(device.allow_multiple_allocations)),
        "attributes": grouped(attributes),
        "capacity": grouped(capacity),
    }
    return types.MapType({types.StringType(name): value for name, value in fields.items()})


def _attribute(types: Any, kind: str, value: Any) -> Any:
    if kind == "version":
        return Version.parse(value)
    return {"int": types.IntType, "bool": types.BoolType, "string": types.StringType}[kind](value)


def _functions(cel: Any) -> dict[str, Callable[..., Any]]:
    """What Kubernetes adds to the language, as far as it can be asked of a device. What fails is an error of the language, so
    that `||` and `&&` treat it as such."""

    def safely(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except (ValueError, AttributeError, TypeError) as wrong:
                said = str(wrong) if isinstance(wrong, ValueError) else f"{name} is not known of {type(arguments[0]).__name__}"
                return cel.CELEvalError(said)

        return call

    return {name: safely(name, function) for name, function in _plain_functions(cel.celtypes).items()}


def _plain_functions(types: Any) -> dict[str, Callable[..., Any]]:

    def compare(a: Any, b: Any) -> int:
        if type(a) is not type(b) or not isinstance(a, Quantity | Version):
            raise SelectorError(f"{type(a).__name__} and {type(b).__name__} cannot be compared")
        return int(a > b) - int(a < b)

    def is_a(make: Callable[[str], object]) -> Callable[[Any], Any]:
        def answer(text: Any) -> Any:
            try:
                make(str(text))
            except ValueError:
                return types.BoolType(False)
            return types.BoolType(True)

        return answer

    def quantity(text: Any) -> Quantity:
        return Quantity(parse_exact(str(text)))

    return {
        "quantity": quantity,
        "isQuantity": is_a(parse_exact),
        "sign": lambda one: types.IntType((one.amount > 0) - (one.amount < 0)),
        "isInteger": lambda one: types.BoolType(one.amount.denominator == 1),
        "asInteger": lambda one: types.IntType(int(one.amount)),
        "asApproximateFloat": lambda one: types.DoubleType(float(one.amount)),
        "add": lambda a, b: Quantity(a.amount + getattr(b, "amount", b)),
        "sub": lambda a, b: Quantity(a.amount - getattr(b, "amount", b)),
        "semver": lambda text: Version.parse(str(text)),
        "isSemver": is_a(Version.parse),
        "major": lambda one: types.IntType(one.major),
        "minor": lambda one: types.IntType(one.minor),
        "patch": lambda one: types.IntType(one.patch),
        "compareTo": lambda a, b: types.IntType(compare(a, b)),
        "isGreaterThan": lambda a, b: types.BoolType(compare(a, b) > 0),
        "isLessThan": lambda a, b: types.BoolType(compare(a, b) < 0),
        "lowerAscii": lambda text: types.StringType(str(text).lower()),
        "upperAscii": lambda text: types.StringType(str(text).upper()),
        "trim": lambda text: types.StringType(str(text).strip()),
    }
