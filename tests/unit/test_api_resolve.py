"""From manifests to specs: where mounts and tiers lie, which options and keys a store gets, what is refused."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.api.manifests.credentials import CredentialError
from forebay.api.manifests.freshness import NO_LIMIT
from forebay.api.manifests.loaded import Loaded
from forebay.api.manifests.manifest import load, load_documents
from forebay.api.manifests.options import Taken
from forebay.api.manifests.resolve import resolve
from forebay.api.manifests.stores import Source, finish
from forebay.api.names import normalise
from forebay.api.problem import Problem
from forebay.api.spec import FLOOR_BYTES, FLOOR_RATIO, DatasetSpec, Freshness, Mount, Tier, decode_spec, encode_spec
from forebay.api.yamldoc import parse_documents

MANIFESTS = Path(__file__).resolve().parents[1] / "data" / "fluid-manifests"
KEYS = {"AWS_ACCESS_KEY_ID": "ENVKEY", "AWS_SECRET_ACCESS_KEY": "envsecret"}
SECRET = """
---
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {id: AK, key: SK, token: TK, user: bob, password: pw}
"""


def load_text(text: str) -> Loaded:
    problems: list[Problem] = []
    documents = parse_documents(textwrap.dedent(text), "f.yaml", problems)
    return load_documents(documents, problems)


def resolved(
    loaded: Loaded, *, cache_dir: str | None = None, environ: dict[str, str] | None = None, home: str = "/nonexistent"
) -> tuple[list[DatasetSpec], list[Problem]]:
    assert loaded.errors == [], [str(e) for e in loaded.errors]
    return resolve(loaded, cache_dir=cache_dir, default_cache="/cache", environ=environ or {}, home=home)


def dataset(mounts: str, more: str = "") -> str:
    head = "apiVersion: data.fluid.io/v1alpha1\nkind: Dataset\nmetadata: {name: d, namespace: ns}\nspec:\n"
    body = f"mounts:\n{textwrap.indent(textwrap.dedent(mounts).strip(), '  ')}\n{textwrap.dedent(more).strip()}\n"
    return head + textwrap.indent(body, "  ")


def mount_of(entry: str, *, secret: bool = False, environ: dict[str, str] | None = None, home: str = "/nonexistent") -> Mount:
    """The only mount of a Dataset with one mount; no problem may come up but notes."""
    loaded = load_text(dataset(f"- {{{entry}}}") + (SECRET.replace("name: s", "name: s, namespace: ns") if secret else ""))
    (spec,), _ = resolved(loaded, environ=environ, home=home)
    return spec.mounts[0]


def encrypt(**names: str) -> str:
    refs = [f"{{name: {n.replace('__', '-')}, valueFrom: {{secretKeyRef: {{name: s, key: {k}}}}}}}" for n, k in names.items()]
    return f"encryptOptions: [{', '.join(refs)}]"


# --- places -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mounts", "places"),
    [
        ("- {mountPoint: 'local:///srv', name: a}", ["/a"]),
        ("- {mountPoint: 'local:///srv', name: a, path: /}", ["/"]),
        ("- {mountPoint: 's3://bucket', name: a, path: /}", ["/"]),
        ("- {mountPoint: 'http://host/', path: /x/y/}", ["/x/y"]),
        ("- {mountPoint: 'local:///srv', name: //a}", ["/a"]),
        ("- {mountPoint: 'local:///srv', name: a, path: rel}", ["/a"]),
        ("- {mountPoint: 'local:///srv'}", ["/"]),
        ("- {mountPoint: 'local:///srv', name: 'with blank ü'}", ["/with blank ü"]),
        ("- {mountPoint: 'local:///srv', path: //a//b}", ["/a/b"]),
        (
            "- {mountPoint: 'local:///a', path: /}\n- {mountPoint: 'local:///b', path: /in}\n"
            "- {mountPoint: 'local:///c', path: /in/x}",
            ["/", "/in", "/in/x"],
        ),
        ("- {mountPoint: 'local:///a', path: /u}\n- {mountPoint: 'local:///b', path: /u/}", ["/u", "/u"]),
    ],
)
def test_places(mounts: str, places: list[str]) -> None:
    (spec,), problems = resolved(load_text(dataset(mounts)), environ=KEYS)
    assert problems == []
    assert [m.path for m in spec.mounts] == places


@given(st.lists(st.text(max_size=12), max_size=5))
def test_normalised_paths_are_safe(parts: list[str]) -> None:
    try:
        path = normalise("/" + "/".join(parts))
    except ValueError:
        return
    assert path == "/" or not {"", ".", ".."} & set(path[1:].split("/"))
    assert "\0" not in path
    assert normalise(path) == path


# --- sources ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "store", "source", "endpoint"),
    [
        ("s3://bucket", "s3", "s3://bucket", None),
        ("s3://bucket/pre fix/ü", "s3", "s3://bucket/pre fix/ü", None),
        ("s3a://bucket/x/", "s3", "s3://bucket/x/", None),
        ("S3://bucket/X", "s3", "s3://bucket/X", None),
        ("minio://host:9000/bucket/x", "s3", "s3://bucket/x", "http://host:9000"),
        ("http://host", "http", "http://host/", None),
        ("https://host:8443/a%20b/", "http", "https://host:8443/a%20b/", None),
        ("http://[::1]:80/x", "http", "http://[::1]:80/x", None),
        ("local:///srv/data/", "file", "local:///srv/data", None),
        ("local:////srv//data", "file", "local:///srv/data", None),
        ("file:///srv/a%20b", "file", "file:///srv/a%20b", None),
    ],
)
def test_sources(point: str, store: str, source: str, endpoint: str | None) -> None:
    mount = mount_of(f"mountPoint: '{point}'", environ=KEYS)
    assert (mount.store, mount.source, mount.options.get("endpoint")) == (store, source, endpoint)


def test_user_information_leaves_the_source() -> None:
    mount = mount_of("mountPoint: 'https://bob:p%40w@host/tree/'")
    assert mount.source == "https://host/tree/"
    assert mount.options == {"username": "bob"}
    assert mount.secrets == {"password": "p@w"}


# --- options and credentials ------------------------------------------------------------------------------------------

ENGINES = {
    "jindo": ("fs.s3.endpoint", "fs.s3.region", "fs.s3.accessKeyId", "fs.s3.accessKeySecret"),
    "alluxio": ("alluxio.underfs.s3.endpoint", "alluxio.underfs.s3.endpoint.region", "aws.accessKeyId", "aws.secretKey"),
    "alluxio s3a": ("alluxio.underfs.s3.endpoint", "alluxio.underfs.s3.region", "s3a.accessKeyId", "s3a.secretKey"),
    "hadoop": ("fs.s3a.endpoint", "fs.s3a.endpoint.region", "fs.s3a.access.key", "fs.s3a.secret.key"),
    "juicefs": ("endpoint", "region", "access-key", "secret-key"),
    "cache": ("endpoint_url", "region_name", "access", "secret"),
    "curvine": ("s3.endpoint_url", "s3.region_name", "s3.credentials.access", "s3.credentials.secret"),
    "ours": ("forebay.io/endpoint", "forebay.io/region", "forebay.io/access_key", "forebay.io/secret_key"),
}


@pytest.mark.parametrize("engine", ENGINES)
def test_names_of_every_engine(engine: str) -> None:
    endpoint, region, access, secret = ENGINES[engine]
    text = f"""
        apiVersion: data.fluid.io/v1alpha1
        kind: Dataset
        metadata: {{name: d}}
        spec:
          sharedOptions:
            {endpoint}: http://127.0.0.1:9000/
            {region}: us-west-2
          sharedEncryptOptions:
            - name: {access}
              valueFrom: {{secretKeyRef: {{name: s, key: id}}}}
          mounts:
            - mountPoint: s3://bucket
              name: a
              options: {{{region}: eu-west-1}}
              encryptOptions:
                - name: {secret}
                  valueFrom: {{secretKeyRef: {{name: s, key: key}}}}
    """
    loaded = load_text(textwrap.dedent(text) + SECRET)
    assert loaded.problems == []
    (spec,), problems = resolved(loaded)
    assert problems == []
    assert spec.mounts[0].options == {"endpoint": "http://127.0.0.1:9000", "region": "eu-west-1"}
    assert spec.mounts[0].secrets == {"access_key": "AK", "secret_key": "SK"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("endpoint: 'host:9000', tls: 'false'", {"endpoint": "http://host:9000"}),
        ("endpoint: 'host:9000', use_ssl: 'true'", {"endpoint": "https://host:9000"}),
        ("endpoint: 'host:9000'", {"endpoint": "host:9000"}),
        ("alluxio.underfs.s3.disable.dns.buckets: 'true'", {"path_style": "true"}),
        ("no_verify_ssl: 'yes'", {"verify": "false"}),
        ("verify: 'no', ca_file: /x.pem", {"verify": "false", "ca_file": "/x.pem"}),
        ("bucket: 'http://minio:9000/bucket'", {"endpoint": "http://minio:9000"}),
        ("bucket: 'https://bucket.s3.example.com'", {"endpoint": "https://s3.example.com"}),
    ],
)
def test_options(options: str, expected: dict[str, str]) -> None:
    assert mount_of(f"mountPoint: 's3://bucket', options: {{{options}}}", environ=KEYS).options == expected


def test_http_credentials() -> None:
    basic = mount_of(f"mountPoint: 'http://h/', {encrypt(username='user', password='password')}", secret=True)
    assert (basic.options, basic.secrets) == ({}, {"username": "bob", "password": "pw"})
    bearer = mount_of(f"mountPoint: 'http://h/', {encrypt(token='token')}", secret=True)
    assert (bearer.options, bearer.secrets) == ({}, {"token": "TK"})


def test_encrypted_settings_that_are_no_secrets() -> None:
    """The stores read `verify` and `ca_file` from the options only."""
    refs = encrypt(verify="flag", token="token")
    loaded = load_text(
        dataset(f"- {{mountPoint: 'https://h/', {refs}}}")
        + SECRET.replace("name: s", "name: s, namespace: ns").replace("id: AK", "flag: 'no'")
    )
    (spec,), _ = resolved(loaded)
    assert (spec.mounts[0].options, spec.mounts[0].secrets) == ({"verify": "false"}, {"token": "TK"})


def test_where_keys_come_from(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        "[default]\naws_access_key_id=D\naws_secret_access_key=d\n[p]\n"
        + "aws_access_key_id=P\naws_secret_access_key=p\naws_session_token=t\n"
    )
    home = str(tmp_path)
    point = "mountPoint: 's3://bucket'"
    own = mount_of(
        f"{point}, {encrypt(access__key='id', secret__key='key', session__token='token')}", secret=True, environ=KEYS, home=home
    )
    assert own.secrets == {"access_key": "AK", "secret_key": "SK", "session_token": "TK"}
    assert mount_of(f"{point}, options: {{profile: p}}", environ=KEYS, home=home).secrets == {
        "access_key": "P",
        "secret_key": "p",
        "session_token": "t",
    }
    assert mount_of(point, environ=KEYS, home=home).secrets == {"access_key": "ENVKEY", "secret_key": "envsecret"}
    assert mount_of(point, home=home).secrets == {"access_key": "D", "secret_key": "d"}
    nothing = mount_of(point)
    assert (nothing.options, nothing.secrets) == ({"anonymous": "true"}, {})
    anonymous = mount_of(f"{point}, options: {{anonymous: 'true'}}", environ=KEYS, home=home)
    assert (anonymous.options, anonymous.secrets) == ({"anonymous": "true"}, {})


def test_region_and_endpoint_of_the_machine() -> None:
    machine = {**KEYS, "AWS_REGION": "r", "AWS_ENDPOINT_URL_S3": "http://e:1", "AWS_CA_BUNDLE": "/ca"}
    assert mount_of("mountPoint: 's3://bucket'", environ=machine).options == {
        "region": "r",
        "endpoint": "http://e:1",
        "ca_file": "/ca",
    }
    mine = mount_of("mountPoint: 's3://bucket', options: {region: q, endpoint: 'http://f'}", environ=machine)
    assert (mine.options["region"], mine.options["endpoint"]) == ("q", "http://f")


def test_without_any_key_a_warning_says_so() -> None:
    _, (note,) = resolved(load_text(dataset("- {mountPoint: 's3://bucket'}")))
    assert note.severity == "warning"
    assert "unsigned" in note.message
    assert "anonymous" in note.remedy


def test_the_machine_stands_in_for_a_secret_elsewhere() -> None:
    loaded = load([str(MANIFESTS / "06-cacheruntime.yaml")])
    specs, (problem,) = resolved(loaded)
    assert specs == []
    assert (problem.severity, problem.line) == ("error", 73)
    assert "Secret that holds access, secret is not in the files" in problem.message
    assert "AWS_ACCESS_KEY_ID" in problem.remedy
    (spec,), (note,) = resolved(loaded, environ=KEYS)
    assert spec.mounts[0].secrets == {"access_key": "ENVKEY", "secret_key": "envsecret"}
    assert note.severity == "warning"
    assert "environment" in note.message


@pytest.mark.parametrize(
    ("entry", "environ", "message"),
    [
        ("mountPoint: 'pvc://claim/x'", {}, "no store here serves yet (pvc)"),
        ("mountPoint: 'dataset://a/b'", {}, "no store here serves yet (dataset)"),
        ("mountPoint: 's3://bucket', options: {access_key: x}", {}, "secret_key is missing"),
        ("mountPoint: 's3://bucket', options: {profile: none}", KEYS, "profile none is in neither"),
        ("mountPoint: 's3://bucket'", {"AWS_ACCESS_KEY_ID": "x"}, "AWS_SECRET_ACCESS_KEY is not set"),
        ("mountPoint: 'minio://bucket/x'", KEYS, "names no server"),
        ("mountPoint: 's3://bucket', options: {bucket: 'http://h/other'}", KEYS, "not in the bucket"),
        (f"mountPoint: 'http://h/', {encrypt(token='token')}", {}, "Secret that holds token is not in the files"),
    ],
)
def test_refused(entry: str, environ: dict[str, str], message: str) -> None:
    specs, problems = resolved(load_text(dataset(f"- {{{entry}}}")), environ=environ)
    assert specs == []
    (problem,) = problems
    assert problem.severity == "error"
    assert message in problem.message
    assert problem.remedy
    assert (problem.file, problem.line) == ("f.yaml", 6)


def test_one_bad_dataset_does_not_stop_the_others() -> None:
    text = (
        dataset("- {mountPoint: 'pvc://c/x'}") + "---\n" + dataset("- {mountPoint: 'local:///x'}").replace("name: d", "name: e")
    )
    specs, problems = resolved(load_text(text))
    assert [s.name for s in specs] == ["e"]
    assert len(problems) == 1


def test_a_dataset_with_errors_has_no_spec() -> None:
    loaded = load_text(dataset("- {mountPoint: 'local:///x', zzz: 1}"))
    assert resolve(loaded, cache_dir=None, default_cache="/c", environ={}, home="/x") == ([], [])
    assert loaded.errors


def test_an_optional_secret_may_be_absent() -> None:
    ref = "{name: session-token, valueFrom: {secretKeyRef: {name: other, key: t, optional: true}}}"
    mount = mount_of(f"mountPoint: 's3://bucket', encryptOptions: [{ref}]", environ=KEYS)
    assert mount.secrets == {"access_key": "ENVKEY", "secret_key": "envsecret"}


# --- tiers ------------------------------------------------------------------------------------------------------------


def with_runtime(kind: str, spec: str, annotations: str = "{}") -> Loaded:
    meta = f"{{name: d, namespace: ns, annotations: {annotations}}}"
    head = f"---\napiVersion: data.fluid.io/v1alpha1\nkind: {kind}\nmetadata: {meta}\nspec:\n"
    loaded = load_text(dataset("- {mountPoint: 'local:///x'}") + head + textwrap.indent(textwrap.dedent(spec).strip(), "  "))
    assert loaded.errors == [], [str(e) for e in loaded.errors]
    return loaded


def spec_of(loaded: Loaded, cache_dir: str | None = None) -> DatasetSpec:
    (spec,), problems = resolved(loaded, cache_dir=cache_dir)
    assert problems == []
    return spec


TWO_TIERS = """
    tieredstore:
      levels:
        - {mediumtype: HDD, path: /hdd, quota: 1Ti, high: "0.8", low: "0.5"}
        - {mediumtype: SSD, path: "/ssd0,/ssd1/", quotaList: "40Gi,60Gi"}
        - {mediumtype: MEM, path: /dev/shm, quota: 4Gi}
"""


def test_tiers_where_the_yaml_says() -> None:
    spec = spec_of(with_runtime("AlluxioRuntime", TWO_TIERS))
    assert spec.tiers == [
        Tier("MEM", "/dev/shm/forebay/ns/d", 4 << 30, 0.95, 0.7),
        Tier("SSD", "/ssd0/forebay/ns/d", 40 << 30, 0.95, 0.7),
        Tier("SSD", "/ssd1/forebay/ns/d", 60 << 30, 0.95, 0.7),
        Tier("HDD", "/hdd/forebay/ns/d", 1 << 40, 0.8, 0.5),
    ]
    assert spec.index_dir == "/ssd0/forebay/ns/d/index"


def test_tiers_under_a_cache_dir() -> None:
    spec = spec_of(with_runtime("JindoRuntime", TWO_TIERS), "/else")
    assert [t.path for t in spec.tiers] == [f"/else/ns/d/tier{i}-{m}" for i, m in enumerate(("mem", "ssd", "ssd", "hdd"))]
    assert [t.quota for t in spec.tiers] == [4 << 30, 40 << 30, 60 << 30, 1 << 40]
    assert spec.index_dir == "/else/ns/d/index"


@pytest.mark.parametrize("kind", ["AlluxioRuntime", "JindoRuntime", "EFCRuntime", "VineyardRuntime", "ThinRuntime"])
def test_every_classic_runtime_has_tiers(kind: str) -> None:
    level = "{mediumtype: SSD, path: '/a,/b', quota: 10Gi}"
    spec = spec_of(with_runtime(kind, f"tieredstore: {{levels: [{level}]}}"))
    assert [(t.path, t.quota) for t in spec.tiers] == [("/a/forebay/ns/d", 5 << 30), ("/b/forebay/ns/d", 5 << 30)]


def test_no_runtime_and_no_tier_are_one_ssd_tier() -> None:
    expected = [Tier("SSD", "/cache/ns/d/tier0-ssd", 0, 0.95, 0.7)]
    (bare,), _ = resolved(load_text(dataset("- {mountPoint: 'local:///x'}")))
    assert (bare.tiers, bare.index_dir) == (expected, "/cache/ns/d/index")
    assert spec_of(with_runtime("ThinRuntime", "replicas: 1")).tiers == expected
    (moved,), _ = resolved(load_text(dataset("- {mountPoint: 'local:///x'}")), cache_dir="/else")
    assert (moved.tiers[0].path, moved.index_dir) == ("/else/ns/d/tier0-ssd", "/else/ns/d/index")


def test_levels_without_a_path() -> None:
    levels = "[{mediumtype: MEM, volumeType: emptyDir, quota: 1Gi}, {mediumtype: SSD, quota: 2Gi}]"
    spec = spec_of(with_runtime("AlluxioRuntime", f"tieredstore: {{levels: {levels}}}"))
    assert [(t.path, t.quota) for t in spec.tiers] == [("/dev/shm/forebay/ns/d", 1 << 30), ("/cache/ns/d/tier1-ssd", 2 << 30)]
    assert spec.index_dir == "/cache/ns/d/index"


def test_the_index_is_in_memory_only_where_all_is() -> None:
    spec = spec_of(with_runtime("AlluxioRuntime", "tieredstore: {levels: [{mediumtype: MEM, path: /dev/shm, quota: 1Gi}]}"))
    assert spec.index_dir == "/dev/shm/forebay/ns/d/index"


def test_cache_runtime_tiers() -> None:
    spec = spec_of(
        with_runtime(
            "CacheRuntime",
            """
            runtimeClassName: c
            worker:
              tieredStore:
                levels:
                  - hostPath: {paths: [/nvme0, /nvme1], quotas: [100Gi, 200Gi]}
                    high: "0.9"
                    low: "0.8"
                  - {emptyDir: {quota: 3Gi}}
                  - {emptyDir: {quota: 2Gi, medium: Memory}}
                  - {processMemory: {quota: 1Gi}}
            """,
        )
    )
    assert [(t.medium, t.path, t.quota, t.high) for t in spec.tiers] == [
        ("MEM", "/dev/shm/forebay/ns/d", 2 << 30, 0.95),
        ("MEM", "/dev/shm/forebay/ns/d/tier1", 1 << 30, 0.95),
        ("SSD", "/nvme0/forebay/ns/d", 100 << 30, 0.9),
        ("SSD", "/nvme1/forebay/ns/d", 200 << 30, 0.9),
        ("SSD", "/cache/ns/d/tier4-ssd", 3 << 30, 0.95),
    ]


def test_client_tiers_serve_where_the_worker_has_none() -> None:
    spec = spec_of(
        with_runtime("CacheRuntime", "runtimeClassName: c\nclient: {tieredStore: {levels: [{emptyDir: {quota: 3Gi}}]}}")
    )
    assert [(t.medium, t.quota) for t in spec.tiers] == [("SSD", 3 << 30)]


def test_juicefs_paths_and_low() -> None:
    """JuiceFS separates directories by colons, and Fluid hands `low` to it as --free-space-ratio."""
    spec = spec_of(
        with_runtime("JuiceFSRuntime", "tieredstore: {levels: [{mediumtype: SSD, path: '/a:/b', quota: 10Gi, low: '0.1'}]}")
    )
    assert [(t.path, t.low) for t in spec.tiers] == [("/a/forebay/ns/d", 0.7), ("/b/forebay/ns/d", 0.7)]
    assert (spec.floor_ratio, spec.floor_bytes) == (0.1, FLOOR_BYTES)


@pytest.mark.parametrize(
    ("high", "low", "expected"),
    [("0.5", None, (0.5, 0.4)), (None, "0.96", (0.98, 0.96)), (None, "0.5", (0.95, 0.5)), ("1.0", "0.9", (1.0, 0.9))],
)
def test_missing_watermarks(high: str | None, low: str | None, expected: tuple[float, float]) -> None:
    marks = "".join(f", {k}: '{v}'" for k, v in (("high", high), ("low", low)) if v)
    level = f"{{mediumtype: SSD, path: /a, quota: 1Gi{marks}}}"
    tier = spec_of(with_runtime("AlluxioRuntime", f"tieredstore: {{levels: [{level}]}}")).tiers[0]
    assert (tier.high, tier.low) == pytest.approx(expected)


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_floor_and_freshness() -> None:
    text = dataset(
        "- {mountPoint: 'local:///x', name: a, options: {forebay.io/freshness: ttl=5s}}\n- {mountPoint: 'local:///y', name: b}"
    )
    (plain,), _ = resolved(load_text(text))
    assert (plain.floor_ratio, plain.floor_bytes) == (FLOOR_RATIO, FLOOR_BYTES)
    assert [m.freshness for m in plain.mounts] == [Freshness("ttl", 5.0), Freshness()]
    own = text.replace("ns}", "ns, annotations: {forebay.io/freshness: immutable, forebay.io/free-space-floor: 10%}}", 1)
    (spec,), _ = resolved(load_text(own))
    assert (spec.floor_ratio, spec.floor_bytes) == (0.1, NO_LIMIT)
    assert [m.freshness for m in spec.mounts] == [Freshness("ttl", 5.0), Freshness("immutable")]
    on_runtime = spec_of(with_runtime("ThinRuntime", "replicas: 1", "{forebay.io/free-space-floor: '5%,1Gi'}"))
    assert (on_runtime.floor_ratio, on_runtime.floor_bytes) == (0.05, 1 << 30)


def test_owner_and_writing() -> None:
    more = "owner: {uid: 1201, gid: 1202, user: u, group: g}\naccessModes: [ReadWriteMany]"
    (spec,), _ = resolved(load_text(dataset("- {mountPoint: 'local:///x'}", more)))
    assert (spec.uid, spec.gid) == (1201, 1202)
    assert spec.mounts[0].read_only


def test_a_spec_survives_its_file() -> None:
    specs, _ = resolved(load([str(MANIFESTS)]), environ=KEYS)
    assert {s.id for s in specs} == {"default/corpus", "default/lake", "default/models"}
    for spec in specs:
        assert decode_spec(encode_spec(spec)) == spec


def test_without_a_machine_nothing_is_read_and_no_profile_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr("builtins.open", opened)
    source = Source("s3", "s3://bucket/")
    done = finish(source, {}, None)
    assert (done.options, done.secrets) == ({"anonymous": "true"}, {})
    with pytest.raises(CredentialError, match="profile lab is of a machine"):
        finish(source, {"profile": Taken("profile", "lab", False, "profile")}, None)
