"""A stand-in for GPUs, which this machine lacks: a device plugin that counts and does nothing else.

It tells the kubelet of `aliyun.com/gpu-mem` (one device for each GiB of each card) and `aliyun.com/gpu-count`, as the plugins of
ACK and gpushare do, so that nodes show these resources, the kubelet admits pods only while enough is left, and containers get
`ALIYUN_COM_GPU_MEM_CONTAINER`. There is no card behind it: no device file, no isolation, and it does not look which card a pod's
annotations name. The protocol is the kubelet's `v1beta1` (k8s.io/kubelet/pkg/apis/deviceplugin), written by hand: four messages.

    python -P -m harness cards | kubectl apply -f -       # a DaemonSet in kube-system: two cards of 8 GiB on each node
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

FOLDER = "/var/lib/kubelet/device-plugins"
MEMORY, COUNT = "aliyun.com/gpu-mem", "aliyun.com/gpu-count"
GIVEN = {MEMORY: "ALIYUN_COM_GPU_MEM_CONTAINER", COUNT: "ALIYUN_COM_GPU_COUNT_CONTAINER"}
NAME = "counting-cards"


def field(number: int, value: bytes | str) -> bytes:
    """A field of bytes, text or a message."""
    raw = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(raw)) + raw


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def fields(raw: bytes, number: int) -> list[bytes]:
    """The values of a field of bytes, text or messages. The messages that come here have no others."""
    found, at = list[bytes](), 0
    while at < len(raw):
        tag, at = _read_varint(raw, at)
        if tag & 7 != 2:
            raise ValueError(f"field {tag >> 3} is of wire type {tag & 7}, this plugin knows 2")
        size, at = _read_varint(raw, at)
        if tag >> 3 == number:
            found.append(raw[at : at + size])
        at += size
    return found


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


class Plugin(grpc.GenericRpcHandler):  # type: ignore[misc]
    """One resource with devices that only have names."""

    def __init__(self, resource: str, devices: list[str], folder: str = FOLDER) -> None:
        self.resource, self.devices, self.folder = resource, devices, folder
        self.socket = f"counting-{resource.rpartition('/')[2]}.sock"
        self.ended = threading.Event()
        self._methods: dict[str, Any] = {
            "GetDevicePluginOptions": _unary(lambda _: b""),
            "Allocate": _unary(self._allocate),
            "PreStartContainer": _unary(lambda _: b""),
            "ListAndWatch": grpc.unary_stream_rpc_method_handler(self._listed),
        }

    def service(self, handler_call_details: Any) -> Any:
        return self._methods.get(handler_call_details.method.rpartition("/")[2])

    def _listed(self, _: bytes, context: Any) -> Iterator[bytes]:
        context.add_callback(self.ended.set)  # the kubelet has gone: register with the next
        yield b"".join(field(1, field(1, name) + field(2, "Healthy")) for name in self.devices)
        self.ended.wait()

    def _allocate(self, request: bytes) -> bytes:
        answers = list[bytes]()
        for container in fields(request, 1):
            count = str(len(fields(container, 1)))
            answers.append(field(1, field(1, field(1, GIVEN[self.resource]) + field(2, count))))
        return b"".join(answers)

    def serve(self) -> None:
        """Until the kubelet ends: then all is done anew, for it forgets its plugins and deletes their sockets."""
        self.ended.clear()
        path = Path(self.folder, self.socket)
        path.unlink(missing_ok=True)
        server = grpc.server(ThreadPoolExecutor(8), [self])
        server.add_insecure_port(f"unix:{path}")
        server.start()
        try:
            with grpc.insecure_channel(f"unix:{self.folder}/kubelet.sock") as channel:
                register = channel.unary_unary("/v1beta1.Registration/Register")
                register(field(1, "v1beta1") + field(2, self.socket) + field(3, self.resource), timeout=10)
            _say(f"{self.resource}: {len(self.devices)} registered")
            while not self.ended.wait(1) and path.exists():
                pass
        finally:
            server.stop(0).wait()

    def run(self) -> None:
        """For ever; what fails is tried again after a second."""
        while True:
            try:
                self.serve()
            except grpc.RpcError as error:
                _say(f"{self.resource}: {error}")
            time.sleep(1)


def _unary(call: Callable[[bytes], bytes]) -> Any:
    return grpc.unary_unary_rpc_method_handler(lambda request, _: call(request))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def manifests(cards: int = 2, memory: int = 8, image: str = "forebay:dev") -> list[dict[str, Any]]:
    """The plugin as a DaemonSet on all nodes, its program in a ConfigMap: `cards` of `memory` GiB on each."""
    meta = {"name": NAME, "namespace": "kube-system"}
    labels = {"app": NAME}
    container = {
        "name": "plugin",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["python3", "/program/cards.py"],
        "env": [{"name": "CARDS", "value": str(cards)}, {"name": "GIB", "value": str(memory)}],
        "securityContext": {
            "runAsUser": 0,  # the kubelet's folder is root's
            "runAsGroup": 0,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "program", "mountPath": "/program"}, {"name": "plugins", "mountPath": FOLDER}],
    }
    spec = {
        "tolerations": [{"operator": "Exists"}],
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
        "volumes": [
            {"name": "program", "configMap": {"name": NAME}},
            {"name": "plugins", "hostPath": {"path": FOLDER, "type": "Directory"}},
        ],
    }
    template = {"metadata": {"labels": labels}, "spec": spec}
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"cards.py": Path(__file__).read_text()}},
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": meta,
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        },
    ]


def listed(cards: int = 2, memory: int = 8) -> str:
    """`manifests` as one List, for kubectl."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests(cards, memory)})


def main() -> None:
    cards, memory = int(os.environ["CARDS"]), int(os.environ["GIB"])
    parts = [f"gpu-{card}-gib-{part}" for card in range(cards) for part in range(memory)]
    plugins = [Plugin(MEMORY, parts), Plugin(COUNT, [f"gpu-{card}" for card in range(cards)])]
    threads = [threading.Thread(target=plugin.run) for plugin in plugins]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
