"""Every setting of the server, in one place: from a TOML file, the environment (RUNLANE_…) and the command line, the
later ones over the earlier."""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from .access.keys import hashed
from .durations import parse_duration
from .engine.keys import DEFAULT_TENANT
from .errors import StartupError

LOG_LEVELS = ("debug", "info", "warning", "error")
LARGEST = 1_000_000_000


def _setting(
    default: Any,
    help: str,
    secret: bool = False,
    least: float | None = None,
    most: float = LARGEST,
    hashed: bool = False,
    variable: str = "",
    duration: bool = False,
) -> Any:
    """`hashed`: it is made of keys, of which only the SHA-256 is kept, and as secret as what `secret` says it of;
    `variable`: its environment variable, where that has another name than the rest; `duration`: it is one as Go writes
    them."""
    metadata = {
        "help": help,
        "secret": secret or hashed,
        "least": least,
        "most": most,
        "hashed": hashed,
        "variable": variable,
        "duration": duration,
    }
    return dataclasses.field(default=default, metadata=metadata, repr=not metadata["secret"])


@dataclasses.dataclass(frozen=True)
class Settings:
    """The values a gateway runs with."""

    redis_url: str = _setting(
        "", "the store: redis://, rediss://, unix://, redis+sentinel://HOST:PORT,…/NAME or redis+cluster://HOST:PORT,…",
        secret=True,
    )  # fmt: skip
    worker_redis_url: str = _setting(
        "", "the store's address as workers reach it, without user and password; default: as in redis_url", secret=True
    )
    host: str = _setting("127.0.0.1", "address to listen on")
    port: int = _setting(8000, "port to listen on", least=0, most=65535)
    processes: int = _setting(1, "gateway processes on this machine, behind one port", least=1, most=1024)
    api_keys: tuple[str, ...] = _setting(
        (), "keys of tenants, good for everything but the management of keys: TENANT:KEY, or KEY for the tenant "
        "default, separated by commas; sha256:HEX may stand for KEY", hashed=True,
    )  # fmt: skip
    admin_keys: tuple[str, ...] = _setting((), "as api_keys, and good for the management of keys too", hashed=True)
    worker_keys: tuple[str, ...] = _setting(
        (), "keys for workers besides those that `runlane endpoint create` prints: ENDPOINT:KEY or "
        "TENANT/ENDPOINT:KEY, separated by commas", hashed=True,
    )  # fmt: skip
    runqy_api_key: str = _setting(
        "", "Runqy's key for everything, of the tenant default", hashed=True, variable="RUNQY_API_KEY"
    )
    runqy_client_api_key: str = _setting("", "Runqy's key for clients", hashed=True, variable="RUNQY_CLIENT_API_KEY")
    runqy_worker_api_key: str = _setting("", "Runqy's key for workers", hashed=True, variable="RUNQY_WORKER_API_KEY")
    runqy_public_tasks: bool = _setting(
        False, "GET /queue/{id} takes no key, for the tenant default, as in Runqy: whoever knows an id may read it"
    )
    runqy_body_limit: int = _setting(
        52_428_800, "largest body of Runqy's routes that add tasks, in bytes", least=1, variable="RUNQY_MAX_BODY_SIZE"
    )
    runqy_default_max_retry: int = _setting(
        3, "how often a task is tried again, where its queue does not say", least=0, most=1000,
        variable="RUNQY_DEFAULT_MAX_RETRY",
    )  # fmt: skip
    runqy_default_ttl_completed: str = _setting(
        "24h", "how long a completed task is kept, where its queue does not say; 0: 30 days", duration=True,
        variable="RUNQY_DEFAULT_TTL_COMPLETED",
    )  # fmt: skip
    runqy_default_ttl_archived: str = _setting(
        "72h", "how long a failed task is kept, where its queue does not say; 0: 30 days", duration=True,
        variable="RUNQY_DEFAULT_TTL_ARCHIVED",
    )  # fmt: skip
    runqy_default_pending_timeout: str = _setting(
        "0", "how long a task may wait, where its queue does not say; 0: no limit", duration=True,
        variable="RUNQY_DEFAULT_PENDING_TIMEOUT",
    )  # fmt: skip
    runqy_default_active_timeout: str = _setting(
        "0", "how long a task may run, where neither its queue nor its request says; 0: a week", duration=True,
        variable="RUNQY_DEFAULT_ACTIVE_TIMEOUT",
    )  # fmt: skip
    rune_api_tokens: tuple[str, ...] = _setting(
        (), "RUNE's tokens: TENANT:TOKEN, separated by commas", hashed=True, variable="RUNE_API_TOKENS"
    )
    vault_master_keys: tuple[str, ...] = _setting(
        (), "what vaults are encrypted with: the base64 of 32 random bytes (openssl rand -base64 32). Of several, "
        "separated by commas, the first encrypts and all decrypt. Without, there are no vaults",
        secret=True, variable="RUNQY_VAULT_MASTER_KEY",
    )  # fmt: skip
    insecure: bool = _setting(False, "serve without keys; for development only")
    endpoints: tuple[str, ...] = _setting((), "endpoints to create at start when they do not exist: ID or TENANT/ID")
    queue_files: str = _setting(
        "", "directory with Runqy's queue files (*.yaml, *.yml), of which endpoints are made; empty: none",
        variable="QUEUE_WORKERS_DIR",
    )  # fmt: skip
    queue_files_watch: bool = _setting(True, "whether queue files that change are loaded at once")
    queue_files_tenant: str = _setting(DEFAULT_TENANT, "whose endpoints the queues of the files are")
    run_limit: int = _setting(10_000_000, "largest body of /run, in bytes", least=1)
    runsync_limit: int = _setting(20_000_000, "largest body of /runsync, in bytes", least=1)
    output_limit: int = _setting(20_000_000, "largest output of a job, in bytes", least=1)
    chunk_limit: int = _setting(1_000_000, "largest single streamed chunk, in bytes", least=16)
    run_retention_seconds: int = _setting(1800, "how long the result of /run is kept", least=1)
    runsync_retention_seconds: int = _setting(60, "how long the result of /runsync is kept", least=1)
    openai_wait_seconds: float = _setting(
        600.0, "how long an OpenAI request waits for its answer, or for the first piece of a stream", least=0.1
    )
    openai_keep_alive_seconds: float = _setting(
        10.0,
        "silence after which a stream of the OpenAI routes gets a comment; its status is decided before",
        least=0.1,
    )
    header_seconds: float = _setting(
        10.0, "time for the URL and headers of a request to arrive, and for a TLS handshake", least=0.1
    )
    header_limit: int = _setting(32_768, "largest URL and headers of a request together, in bytes", least=1024)
    body_seconds: float = _setting(30.0, "time for a request's body to arrive", least=0.1)
    read_seconds: float = _setting(
        60.0, "time for a client to read 64 KiB of an answer, or what is left of it; then it is cut off", least=0.1
    )
    poll_seconds: float = _setting(50.0, "how long a worker's poll over HTTP is held", least=1, most=80)
    trusted_proxies: tuple[str, ...] = _setting(
        (), "addresses or networks of proxies before the gateway, whose X-Forwarded-For says where a request comes from"
    )
    failed_logins: int = _setting(
        10, "failed logins from one address after which it is blocked for a while; 0: never", least=0, most=10_000
    )
    failed_login_seconds: float = _setting(60.0, "the time within which failed logins count", least=1, most=86_400)
    good_keys_pass: bool = _setting(False, "whether good keys are let through from a blocked address")
    rate_limits: tuple[str, ...] = _setting(
        (),
        "limits in the place of RunPod's, each OPERATION=REQUESTS/AT_ONCE/PER_WORKER: requests of one key to one "
        "endpoint per 10 s, at once, and what each ready worker adds; 0 is no limit. Or off, for none at all",
    )
    audit_log: str = _setting("-", "where the audit log goes, as JSON lines: a file, - for standard error, or off")
    head_requests: bool = _setting(False, "answer HEAD where a GET changes nothing")
    api_docs: bool = _setting(
        True, "serve the OpenAPI document at /openapi.json, and Swagger UI at /swagger/, to anyone"
    )
    cors_origins: tuple[str, ...] = _setting(
        (), "origins whose web pages may call the gateway, such as https://app.example, or *; separated by commas"
    )
    tls_cert: str = _setting("", "file with the certificate and its chain, in PEM; serves https with tls_key")
    tls_key: str = _setting("", "file with the certificate's key, in PEM, without a password")
    outbound_allow: tuple[str, ...] = _setting(
        (), "where requests to clients' URLs (webhooks) may go besides public addresses: networks, addresses or host "
        "names, each alone or with a port ([::1]:8080), separated by commas",
    )  # fmt: skip
    webhook_seconds: float = _setting(15.0, "time for a webhook's receiver to answer", least=0.1)
    webhook_retry_seconds: float = _setting(
        10.0,
        "between the first three tries of a webhook; then it is 6 times as long, and twice as long each time",
        least=0.01,
    )
    webhooks_at_once: int = _setting(256, "webhooks that a process sends at once, of one tenant a fourth", least=1)
    webhooks_at_once_per_receiver: int = _setting(16, "webhooks that a process sends at once to one receiver", least=1)
    log_level: str = _setting("info", "debug, info, warning or error")


FIELDS = {field.name: field for field in dataclasses.fields(Settings)}
_TYPES = get_type_hints(Settings)


def environment_name(name: str) -> str:
    """The environment variable of a setting."""
    return FIELDS[name].metadata["variable"] or f"RUNLANE_{name.upper()}"


def load(environment: Mapping[str, str], file: Path | None = None, **given: Any) -> Settings:
    """Puts the settings together.

    Args:
        environment: usually `os.environ`.
        file: a TOML file with the names of the settings as its keys; `RUNLANE_CONFIG` names one too.
        given: values from the command line; None and () mean that nothing was given.

    Raises:
        StartupError: a file that cannot be read, an unknown name in it, or a value of a wrong type.
    """
    if file is None and environment.get("RUNLANE_CONFIG"):
        file = Path(environment["RUNLANE_CONFIG"])
    values = _from_file(file) if file else {}
    for name in FIELDS:
        variable = environment_name(name)
        if environment.get(variable):
            values[name] = _parse(variable, environment[variable], _TYPES[name])
    values |= {name: value for name, value in given.items() if value not in (None, ())}
    for name, value in values.items():
        _check(name, value)
        if FIELDS[name].metadata["hashed"]:
            values[name] = hashed(value) if isinstance(value, str) else tuple(map(hashed, value))
    return Settings(**values)


SECRET_VARIABLES = [environment_name(name) for name, field in FIELDS.items() if field.metadata["secret"]]
"""The environment variables that hold secrets."""


def _check(name: str, value: Any) -> None:
    least, most = FIELDS[name].metadata["least"], FIELDS[name].metadata["most"]
    if least is not None and not least <= value <= most:
        raise StartupError(f"{name} ({environment_name(name)}) must be {least} to {most}, not {value}")
    if FIELDS[name].metadata["duration"]:
        try:
            parse_duration(value)
        except ValueError as error:
            raise StartupError(f"{name} ({environment_name(name)}): {error}") from None
    if name == "log_level" and value not in LOG_LEVELS:
        raise StartupError(f"log_level (RUNLANE_LOG_LEVEL) must be one of {', '.join(LOG_LEVELS)}, not {value!r}")
    if name == "vault_master_keys" and not value:
        raise StartupError(
            "vault_master_keys (RUNQY_VAULT_MASTER_KEY) has no key in it; leave it out to have no vaults"
        )


def _from_file(file: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(file.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartupError(f"cannot read the settings in {file}: {error}") from None
    for name, value in found.items():
        if name not in FIELDS:
            raise StartupError(f"{file}: unknown setting {name!r}; `runlane settings` lists them all")
        if _TYPES[name] == tuple[str, ...]:
            if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
                raise StartupError(f"{file}: {name} must be a list of strings")
            found[name] = tuple(value)
        elif _TYPES[name] is float and type(value) is int:
            found[name] = float(value)
        elif type(value) is not _TYPES[name]:
            raise StartupError(f"{file}: {name} must be of type {_TYPES[name].__name__}, not {type(value).__name__}")
    return found


def _parse(variable: str, text: str, kind: Any) -> Any:
    if kind is bool:
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off"):
            return False
        raise StartupError(f"{variable} must be true or false, not {text!r}")
    if kind == tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        return kind(text)
    except ValueError:
        raise StartupError(f"{variable} must be of type {kind.__name__}, not {text!r}") from None
