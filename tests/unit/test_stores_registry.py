"""What opening a store imports: memory of the worker, and time of the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = [
    "ssl",
    "email",
    "http.client",
    "urllib.request",
    "asyncio",
    "boto3",
    "botocore",
    "fsspec",
    "s3fs",
    "requests",
    "urllib3",
    "configparser",
]

CODE = """
import sys
from forebay.api.spec import Mount
from forebay.cache.stores import open_store
open_store(Mount({source!r}, {store!r}, "/", "m", {options!r}, {secrets!r})).close()
print([name for name in {heavy!r} if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("source", "store", "options", "secrets", "more"),
    [
        ("local:///srv", "file", {}, {}, ["xml.etree.ElementTree"]),
        ("http://h/", "http", {}, {}, ["xml.etree.ElementTree"]),
        ("s3://b", "s3", {"endpoint": "http://h"}, {"access_key": "a", "secret_key": "b"}, []),
    ],
)
def test_a_store_loads_only_its_own(
    source: str, store: str, options: dict[str, str], secrets: dict[str, str], more: list[str]
) -> None:
    code = CODE.format(source=source, store=store, options=options, secrets=secrets, heavy=HEAVY + more)
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
