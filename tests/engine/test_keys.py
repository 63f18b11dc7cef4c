"""Names that are made of tenants and ids: none is another's, and none matches another's."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.access.credentials import user_of
from gateway.access.keys import TENANT
from gateway.dialects.worker_calls import WORKER_ID
from gateway.engine import keys
from gateway.engine.endpoints import ID

SPECIAL = set("{}*?[]\\^: \n\0")
"""What means something in a key's hash tag, in a pattern of the store's, or between the parts of a name."""

SHARED = [value for name, value in vars(keys).items() if name.isupper() and str(value).startswith("runlane:")]

# Of few letters, so that one is often the begin or the end of another.
FEW = "ab0.-_"
WORDS = ["default", "access", "endpoints", "upkeep", "a", "a.b", "a-b", "workers"]


def names(pattern: object) -> st.SearchStrategy[str]:
    fits = st.text(FEW, min_size=1, max_size=4) | st.sampled_from(WORDS)
    return fits.filter(lambda text: pattern.fullmatch(text) is not None)  # type: ignore[attr-defined]


places = st.tuples(names(TENANT), names(ID))
workers = names(WORKER_ID)


def patterns(name: str) -> list[str]:
    """Keys and channels that a worker's user may touch begin with these; see `Credentials.grant`."""
    return [f"{keys.base(name)}:", keys.base(name)]


@given(*(st.from_regex(pattern, fullmatch=True) for pattern in (TENANT, ID, WORKER_ID)))
def test_no_name_has_a_character_that_means_something(tenant: str, id: str, worker: str) -> None:
    assert not SPECIAL & set(keys.name_of(tenant, id) + worker)


@given(places)
def test_a_name_tells_whose_it_is(place: tuple[str, str]) -> None:
    name = keys.name_of(*place)
    assert (keys.tenant_of(name), keys.id_of(name)) == place


@pytest.mark.parametrize("shared", [shared for shared in SHARED if "{" in shared])
def test_what_belongs_to_all_has_a_slot_that_no_name_has(shared: str) -> None:
    tag = shared.partition("{")[2].partition("}")[0]
    tenant, id = keys.tenant_of(tag), keys.id_of(tag)
    assert tag != keys.name_of(tenant, id) or not (TENANT.fullmatch(tenant) and ID.fullmatch(id))


@given(places, places, workers, workers)
def test_no_two_endpoints_share_anything(one: tuple[str, str], two: tuple[str, str], first: str, second: str) -> None:
    assume(one != two)
    mine, other = keys.name_of(*one), keys.name_of(*two)
    assert mine != other
    for pattern in patterns(mine):
        assert not keys.base(other).startswith(pattern)
        assert not keys.gateway_channel(other, "p").startswith(pattern)
    assert user_of(mine, first) != user_of(other, second)
    assert not user_of(other, second).startswith(user_of(mine, ""))  # which are deleted with the endpoint


@given(places, names(TENANT), st.text(FEW + ":/", max_size=4))
def test_no_endpoint_has_what_belongs_to_all(place: tuple[str, str], tenant: str, rest: str) -> None:
    assert keys.ACCESS in SHARED
    for pattern in patterns(keys.name_of(*place)):
        for shared in (*SHARED, keys.endpoints_of(tenant), keys.webhook_secrets(tenant), keys.vaults(tenant)):
            assert not f"{shared}{rest}".startswith(pattern)
            assert not pattern.startswith(f"{shared}:")


@given(names(TENANT), names(TENANT))
def test_each_tenant_has_a_list_of_its_own(one: str, two: str) -> None:
    assert keys.endpoints_of(one) not in SHARED
    assert (keys.endpoints_of(one) == keys.endpoints_of(two)) == (one == two)
