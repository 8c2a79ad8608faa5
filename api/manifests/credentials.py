"""AWS credentials and settings of this machine: the environment, then a profile of ~/.aws.

Only static keys are read; a profile that needs a token service is refused by name.
"""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from pathlib import Path

import msgspec


class CredentialError(ValueError):
    """`str()` says what is wrong, `remedy` what to do; neither holds a key."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class Aws(msgspec.Struct, frozen=True):
    """What the machine knows. Empty strings where it knows nothing; `source` names where the keys come from."""

    access_key: str = ""
    secret_key: str = ""
    session_token: str = ""
    region: str = ""
    endpoint: str = ""
    ca_file: str = ""
    source: str = ""

    def __repr__(self) -> str:
        return f"Aws(source={self.source!r}, region={self.region!r}, endpoint={self.endpoint!r})"


_INDIRECT = ("role_arn", "credential_process", "sso_session", "sso_start_url", "web_identity_token_file", "source_profile")


def aws(environ: Mapping[str, str], home: str | Path, profile: str = "") -> Aws:
    """Keys of the environment unless a profile is named, else of the profile (`AWS_PROFILE`, "default").

    Raises `CredentialError` when a named profile does not exist or gives no static keys.
    """
    named = profile or environ.get("AWS_PROFILE", "") or environ.get("AWS_DEFAULT_PROFILE", "")
    values, files = _profile(environ, Path(home), named or "default")
    env_keys = environ.get("AWS_ACCESS_KEY_ID", ""), environ.get("AWS_SECRET_ACCESS_KEY", "")
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or ""
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or values.get("endpoint_url", "")
    if profile:  # a profile the manifest names wins over the environment
        region = values.get("region") or region
        endpoint = values.get("endpoint_url") or endpoint
    common = Aws(
        region=region or values.get("region", ""),
        endpoint=endpoint,
        ca_file=environ.get("AWS_CA_BUNDLE", "") or values.get("ca_bundle", ""),
    )
    if not profile and (env_keys[0] or env_keys[1]):
        if not all(env_keys):
            missing = "AWS_SECRET_ACCESS_KEY" if env_keys[0] else "AWS_ACCESS_KEY_ID"
            raise CredentialError(f"{missing} is not set, but its other half is", f"export {missing} too")
        return msgspec.structs.replace(
            common,
            access_key=env_keys[0],
            secret_key=env_keys[1],
            session_token=environ.get("AWS_SESSION_TOKEN", ""),
            source="environment",
        )
    if values.get("aws_access_key_id") and values.get("aws_secret_access_key"):
        return msgspec.structs.replace(
            common,
            access_key=values["aws_access_key_id"],
            secret_key=values["aws_secret_access_key"],
            session_token=values.get("aws_session_token", ""),
            source=f"profile {named or 'default'}",
        )
    if named and not values:
        raise CredentialError(f"profile {named} is in neither {files[0]} nor {files[1]}", "name one that is, or add it")
    if named or any(k in values for k in _INDIRECT):
        indirect = next((k for k in _INDIRECT if k in values), "")
        why = f" (it uses {indirect}, which is not read yet)" if indirect else ""
        if named:
            remedy = "export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (aws configure export-credentials prints them)"
            raise CredentialError(f"profile {named} has no static keys{why}", remedy)
    return common


def _profile(environ: Mapping[str, str], home: Path, name: str) -> tuple[dict[str, str], tuple[str, str]]:
    """Settings of one profile, credentials file over config file, and the names of the two files."""
    credentials = environ.get("AWS_SHARED_CREDENTIALS_FILE") or str(home / ".aws" / "credentials")
    config = environ.get("AWS_CONFIG_FILE") or str(home / ".aws" / "config")
    values = _section(config, "default" if name == "default" else f"profile {name}")
    values.update(_section(credentials, name))
    return values, (credentials, config)


def _section(file: str, section: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, default_section="\0none", strict=False)
    try:
        with open(file, encoding="utf-8") as f:
            parser.read_file(f)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as e:
        raise CredentialError(f"{file} cannot be read ({getattr(e, 'strerror', 'no UTF-8')})", "check its permissions") from e
    except configparser.Error:  # its text repeats lines of the file: keys
        raise CredentialError(f"{file} is no valid INI file", "correct it; every setting stands under a [profile] line") from None
    return dict(parser[section]) if parser.has_section(section) else {}
