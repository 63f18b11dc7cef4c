"""The names of all keys and channels. What is behind an endpoint's base key stands on top of functions/common.lua."""

ENDPOINTS = "runlane:endpoints"
"""Set of the ids of all endpoints; an id is put in before its endpoint is made and taken out after it is gone."""

UPKEEP = "runlane:upkeep"
"""Held by the gateway process whose turn it is to do upkeep; expires."""


def base(endpoint: str) -> str:
    """The base key of an endpoint: the braces put all of its keys into one slot of a cluster."""
    return f"runlane:{{{endpoint}}}"


def tenant_of(name: str) -> str:
    """Whose endpoint it is: it is named `TENANT/ID` inside the engine, and only `ID` for the tenant `default`."""
    return name.partition("/")[0] if "/" in name else "default"


def webhook_secrets(tenant: str) -> str:
    """What a tenant's webhooks are signed with: see functions/secrets.lua. No worker's user can reach it, whatever its
    endpoint is called: the keys behind that begin with `runlane:{`."""
    return f"runlane:webhook-secrets:{{{tenant}}}"


def gateway_channel(endpoint: str, process: str) -> str:
    """The channel on which a gateway process hears of jobs of this endpoint."""
    return f"{base(endpoint)}:gateway:{process}"
