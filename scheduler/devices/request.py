"""From what a pod asks of devices to a request of the planner."""

from __future__ import annotations

from dataclasses import replace

from forebay.scheduler.arrays.state import State
from forebay.scheduler.devices.ask import PodAsk
from forebay.scheduler.devices.ecosystems.inputs import served
from forebay.scheduler.pods.request import Request


def request_of(state: State, resources: tuple[int, ...], ask: PodAsk | None) -> Request:
    """A request for `resources` (columns of the state) and the pod's devices.

    Its `cards`, `milli` and `models` say what such a pod is like on the commonest card that could carry it: that is what the
    measure of fragmentation counts as typical. They decide nothing else.
    """
    return Request(resources) if ask is None else with_devices(state, Request(resources), ask)


def with_devices(state: State, request: Request, ask: PodAsk) -> Request:
    """The request with the pod's devices. Columns of resources by which they were asked for are not asked for twice."""
    milli = 1000 if state.devices is None else state.devices.typical(ask)
    choosy = ask.types or ask.not_types
    models = state.model_indexes(name for name in state.models if ask.accepts_model(name)) if choosy else None
    asked = tuple(0 if served(name) else amount for name, amount in zip(state.columns, request.resources, strict=True))
    fill = ask.nodes_by or request.fill
    return replace(request, resources=asked, cards=max(ask.cards, 1), milli=milli, models=models, devices=ask, fill=fill)
