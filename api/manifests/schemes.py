"""Schemes of mount points: which exist in the field, and which our stores serve."""

from __future__ import annotations

import re

SERVED = {
    "s3": "s3",
    "s3a": "s3",
    "s3n": "s3",
    "minio": "s3",
    "http": "http",
    "https": "http",
    "local": "file",
    "file": "file",
}
"""Scheme -> module of `forebay.cache.stores`."""

_FSSPEC = """
abfs adl arrow_hdfs async_wrapper asynclocal asyncwrapper az blockcache box cached dask data dbfs dir dropbox dvc file
filecache ftp gcs gdrive generic gist git github gs hdfs hf http https jlab jupyter lakefs libarchive local memory oci
ocilake oss pyscript reference root s3 s3a sftp simplecache smb ssh tar tos tosfs wandb webdav webhdfs zip
"""
FSSPEC = frozenset(_FSSPEC.split())
"""`fsspec.registry.known_implementations` of fsspec 2026.9."""

_ITSELF = "local pvc dataset http https"
_ALLUXIO_JINDO = """
s3 s3a s3n oss cos cosn obs gs gcs hdfs viewfs wasb wasbs abfs abfss adl adls swift kodo o3fs ofs bos tos ufs alluxio jindo dls
"""
_JUICEFS = """
juicefs jfs minio b2 bunny ceph cifs dragonfly eos etcd ftp gluster ibmcos jss ks3 mss mysql nfs nos oos postgres qingstor qiniu
redis scs scw sftp space speedy sqlite3 tikv ufile upyun us3 wasabi webdav
"""
_THIN_EFC_CACHE_VINEYARD = "cephfs glusterfs cubefs curvine cv lustre ossfs 3fs nas efc cpfs vineyard fuse smb weka beegfs"
FLUID = frozenset(f"{_ITSELF} {_ALLUXIO_JINDO} {_JUICEFS} {_THIN_EFC_CACHE_VINEYARD}".split())
"""Schemes of Fluid and of the engines it drives."""

KNOWN = FSSPEC | FLUID

NO_SCHEME_KINDS = ("ThinRuntime", "EFCRuntime", "CacheRuntime")
"""Kinds whose engine takes a mount point without a scheme, such as `10.0.0.1:/export`."""

HOST_PATH = re.compile(r"[^/\s]+:[^\s]+")
"""`10.0.0.1:/export`, `host:volume`: mount points of NFS and its like."""

_SPLIT = re.compile(r"([A-Za-z0-9][A-Za-z0-9+._-]*)://(.*)", re.DOTALL)


def split(mount_point: str) -> tuple[str, str]:
    """`s3://bucket/x` -> ("s3", "bucket/x"); ("", text) where there is no scheme. Schemes are case-insensitive."""
    match = _SPLIT.fullmatch(mount_point)
    return (match[1].lower(), match[2]) if match else ("", mount_point)


def unserved(scheme: str) -> tuple[str, str]:
    """Message and remedy for a known scheme that no store here serves yet."""
    served = ", ".join(f"{s}://" for s in SERVED)
    return f"has a scheme that no store here serves yet ({scheme or 'none'})", f"`forebay up` takes {served}"
