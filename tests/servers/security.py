"""What turns a plain server into one with TLS, a user with a password, and nothing open to anybody else."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers.archives import Kind
from tests.servers.certificates import NODE, write_certificates
from tests.servers.java import Java
from tests.servers.running import run
from tests.servers.settings import environment

USER = "secondpass"


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a server; the secrets are not in its repr.

    Attributes:
        url: Its address.
        ca_file: The authority that signed its certificate, PEM; None without TLS.
        user: A user who may do everything; empty without security.
        password: Of that user.
        api_key: Elasticsearch's, "encoded" form; empty elsewhere.
    """

    url: str
    ca_file: Path | None = None
    user: str = ""
    password: str = field(default="", repr=False)
    api_key: str = field(default="", repr=False)


def new_password() -> str:
    """A password both servers accept."""
    return f"Aa1-{secrets.token_urlsafe(18)}"


def write_security(kind: Kind, home: Path, folder: Path, java: Java, password: str) -> Mapping[str, object]:
    """Write certificates and the user into the server's own configuration; return the settings that use them.

    Args:
        kind: Which server.
        home: Its installation.
        folder: The server's own folder, with its configuration.
        java: What its tools run on.
        password: Of the user `USER`.
    """
    certificates = folder / "config" / "certificates"
    certificates.mkdir()
    write_certificates(certificates)
    tools = os.environ | environment(kind, folder, java.home)
    if kind == "elasticsearch":
        command = [str(home / "bin" / "elasticsearch-users"), "useradd", USER, "-p", password, "-r", "superuser"]
        run(command, tools)
        return _elasticsearch(certificates)
    tool = home / "plugins" / "opensearch-security" / "tools" / "hash.sh"
    hashed = run(["bash", str(tool), "-env", "HASHED_PASSWORD"], tools | {"HASHED_PASSWORD": password})
    _write_opensearch_user(folder / "config" / "opensearch-security", hashed.strip().splitlines()[-1])
    return _opensearch(certificates)


def _elasticsearch(certificates: Path) -> Mapping[str, object]:
    files = {
        "key": str(certificates / "node.key"),
        "certificate": str(certificates / "node.pem"),
        "certificate_authorities": [str(certificates / "ca.pem")],
    }
    settings: dict[str, object] = {
        "xpack.security.enabled": True,
        "xpack.security.autoconfiguration.enabled": False,
    }
    for layer in ("http", "transport"):
        settings[f"xpack.security.{layer}.ssl.enabled"] = True
        settings.update({f"xpack.security.{layer}.ssl.{name}": value for name, value in files.items()})
    return settings


def _opensearch(certificates: Path) -> Mapping[str, object]:
    settings: dict[str, object] = {
        "plugins.security.ssl.http.enabled": True,
        "plugins.security.ssl.transport.enforce_hostname_verification": False,
        "plugins.security.allow_default_init_securityindex": True,
        "plugins.security.nodes_dn": [f"CN={NODE}"],
        "plugins.security.restapi.roles_enabled": ["all_access"],
    }
    for layer in ("http", "transport"):
        settings[f"plugins.security.ssl.{layer}.pemkey_filepath"] = str(certificates / "node.key")
        settings[f"plugins.security.ssl.{layer}.pemcert_filepath"] = str(certificates / "node.pem")
        settings[f"plugins.security.ssl.{layer}.pemtrustedcas_filepath"] = str(certificates / "ca.pem")
    return settings


def _write_opensearch_user(folder: Path, hashed: str) -> None:
    """Leave no user but ours; `roles_mapping.yml` of the plugin gives "admin" the role all_access."""
    users = {
        "_meta": {"type": "internalusers", "config_version": 2},
        USER: {"hash": hashed, "reserved": False, "backend_roles": ["admin"]},
    }
    (folder / "internal_users.yml").write_text(json.dumps(users, indent=1), encoding="utf-8")
