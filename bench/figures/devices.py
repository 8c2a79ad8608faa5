"""Pods that ask for parts of cards, decision only: pods per second of one process, and how long the ledger takes to be rebuilt.

    .venv/bin/python -P bench/figures/devices.py [--nodes 5000] [--pods 3000] [--classes 60] [--policy forebay]

Nodes have eight cards of one of three sizes; a fifth of them are cut (MIG). CPU seconds of this process.
"""

from __future__ import annotations

import argparse
import random
import time

from forebay.scheduler.arrays.state import Node, State
from forebay.scheduler.devices.ask import Ask, PodAsk
from forebay.scheduler.devices.card import Device, Seat
from forebay.scheduler.devices.ledger import Ledger
from forebay.scheduler.devices.record import Record, read, render
from forebay.scheduler.devices.request import request_of
from forebay.scheduler.devices.vendors.kinds import GIB
from forebay.scheduler.planner import Planner
from forebay.scheduler.policies import Setting, make

SIZES = (("Tesla T4", 16), ("NVIDIA A10", 24), ("NVIDIA A100-SXM4-80GB", 80))
PROFILES = ("1g.10gb", "2g.20gb", "3g.40gb")


def cards(number: int) -> tuple[Device, ...]:
    model, memory = SIZES[number % 3]
    cut = "A100-80GB" if number % 5 == 4 else ""
    model, memory = ("NVIDIA A100-SXM4-80GB", 80) if cut else (model, memory)
    return tuple(
        Device(f"GPU-{number}-{n}", n, "gpu", model, memory * GIB, tenants=0 if cut else 10, layout=cut) for n in range(8)
    )


def asks(chance: random.Random) -> PodAsk:
    dice, seats = chance.random(), (Seat("main"),)
    if dice < 0.2:
        return PodAsk((Ask("main", "gpu", profile=chance.choice(PROFILES)),), seats)
    if dice < 0.4:
        return PodAsk((Ask("main", "gpu", cards=chance.choice([1, 2, 4]), whole=True),), seats)
    memory, cores = chance.choice([2, 4, 6, 10]) * GIB, chance.choice([0, 10, 20, 30])
    return PodAsk((Ask("main", "gpu", memory=memory, cores=cores),), seats)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (("nodes", 5000), ("pods", 3000), ("classes", 60)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--policy", default="forebay")
    options = parser.parse_args()
    chance = random.Random(1)
    nodes = [Node(f"n{n}", {"cpu": 128_000, "memory": 1 << 40}, devices=cards(n)) for n in range(options.nodes)]
    began = time.process_time()
    state = State(nodes, ["cpu", "memory"])
    print(f"snapshot of {options.nodes} nodes: {time.process_time() - began:.2f} s")
    classes = [
        request_of(state, (chance.choice([1000, 4000, 8000]), chance.choice([4, 16]) << 30), asks(chance))
        for _ in range(options.classes)
    ]
    planner = Planner(state, make(options.policy, Setting(seed=1, history=classes)))
    placed, records, began = 0, list[Record](), time.process_time()
    for number in range(options.pods):
        request = chance.choice(classes)
        planner.policy.observe(state, request)
        choice = planner.place(request)
        if choice is not None and request.devices is not None:
            placed += 1
            node = state.names[choice.row]
            records.append(Record(f"u{number}", f"team/p{number}", node, request.devices.seats, choice.parts))
    spent = time.process_time() - began
    print(
        f"{options.policy}: {placed} of {options.pods} pods of {len(set(classes))} classes placed: {options.pods / spent:.0f}/s"
    )
    written = [render(record) for record in records]
    began, books = time.process_time(), Ledger()
    for node in nodes:
        books.set_node(node.name, node.devices)
    for texts in written:
        record = read(texts)
        assert record is not None
        books.confirm(record, 1)
    for row, node in enumerate(nodes):
        state.set_devices(row, books.devices(node.name), books.rules(node.name), books.used(node.name))
    print(f"rebuilt from the annotations of {len(records)} pods: {time.process_time() - began:.2f} s")


if __name__ == "__main__":
    main()
