"""The names of all keys and channels. What is behind an endpoint's base key stands on top of functions/common.lua, what
is behind `ACCESS` on top of functions/access.lua.

Inside the engine an endpoint is named by its tenant and its id, so that two tenants may use one id: `TENANT/ID`, and
only `ID` for the tenant `default`.
"""

DEFAULT_TENANT = "default"
"""Whose keys name no tenant."""

ENDPOINTS = "runlane:endpoints"
"""Set of the names of all endpoints; a name is put in before its endpoint is made and taken out after it is gone."""

UPKEEP = "runlane:upkeep"
"""Held by the gateway process whose turn it is to do upkeep; expires."""

ACCESS = "runlane:{/access}"
"""The base key of what decides who is let in. An endpoint's name does not begin with a slash, so it has another."""


def name_of(tenant: str, id: str) -> str:
    """The name of a tenant's endpoint."""
    return id if tenant == DEFAULT_TENANT else f"{tenant}/{id}"


def tenant_of(name: str) -> str:
    """Whose endpoint it is."""
    return name.partition("/")[0] if "/" in name else DEFAULT_TENANT


def id_of(name: str) -> str:
    """The id under which its tenant knows the endpoint."""
    return name.rpartition("/")[2]


def base(endpoint: str) -> str:
    """The base key of an endpoint: the braces put all of its keys into one slot of a cluster."""
    return f"runlane:{{{endpoint}}}"


def endpoints_of(tenant: str) -> str:
    """Set of the ids of a tenant's endpoints, as `ENDPOINTS` is of all."""
    return f"{ENDPOINTS}:{tenant}"


def webhook_secrets(tenant: str) -> str:
    """What a tenant's webhooks are signed with: see functions/secrets.lua. No worker's user can reach it, whatever its
    endpoint is called: the keys behind that begin with `runlane:{`."""
    return f"runlane:webhook-secrets:{{{tenant}}}"


def vaults(tenant: str) -> str:
    """A tenant's vaults: see functions/vaults.lua. Out of reach as `webhook_secrets`."""
    return f"runlane:vaults:{{{tenant}}}"


def gateway_channel(endpoint: str, process: str) -> str:
    """The channel on which a gateway process hears of jobs of this endpoint."""
    return f"{base(endpoint)}:gateway:{process}"
