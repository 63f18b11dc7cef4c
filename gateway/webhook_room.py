"""How many webhooks are under way at once, and of what size."""

from collections import Counter

PARTS_OF_A_TENANT = 4
"""One tenant may have a fourth of all."""

LARGE = 65_536
LARGE_AT_ONCE = 134_217_728
"""Bytes: so much is under way of bodies that are larger, of one receiver a fourth, of one tenant a half; or else only
one, of whatever size."""

MOST_FAILING = 1000


class Room:
    """What is under way in this process.

    A receiver whose last delivery failed gets one at a time, until one has succeeded.
    """

    def __init__(self, most: int, each: int) -> None:
        """`most` at once in all, `each` for one receiver."""
        self._most = most
        self._each = each
        self._count = 0
        self._tenants: Counter[str] = Counter()
        self._receivers: Counter[str] = Counter()
        self._large: Counter[tuple[str, str]] = Counter()
        self._failing: dict[str, None] = {}

    def left(self, tenant: str) -> int:
        """How many more there may be for a tenant."""
        own = max(1, self._most // PARTS_OF_A_TENANT)
        return min(self._most - self._count, own - self._tenants[tenant])

    def taken(self) -> dict[str, int]:
        """The receivers that may have fewer than others, and how many more."""
        known = dict.fromkeys((*self._receivers, *self._failing))
        return {receiver: max(0, self._most_for(receiver) - self._receivers[receiver]) for receiver in known}

    def enter(self, tenant: str, receiver: str, size: int) -> bool:
        """Lets a delivery of so many bytes begin, if there is room for them."""
        if size > LARGE:
            places = _places(tenant, receiver)
            if any(self._large[place] and self._large[place] + size > most for place, most in places.items()):
                return False
            self._large.update(dict.fromkeys(places, size))
        self._count += 1
        self._tenants[tenant] += 1
        self._receivers[receiver] += 1
        return True

    def leave(self, tenant: str, receiver: str, size: int) -> None:
        """It has ended."""
        if size > LARGE:
            self._large -= Counter(dict.fromkeys(_places(tenant, receiver), size))
        self._count -= 1
        for counter, name in ((self._tenants, tenant), (self._receivers, receiver)):
            counter[name] -= 1
            if not counter[name]:
                del counter[name]

    def note(self, receiver: str, is_well: bool) -> None:
        """How a delivery to the receiver ended."""
        self._failing.pop(receiver, None)
        if not is_well:
            self._failing[receiver] = None
            if len(self._failing) > MOST_FAILING:
                del self._failing[next(iter(self._failing))]

    def _most_for(self, receiver: str) -> int:
        return min(1, self._each) if receiver in self._failing else self._each


def _places(tenant: str, receiver: str) -> dict[tuple[str, str], int]:
    """Where large bodies are counted, and how many bytes there may be."""
    return {
        ("all", ""): LARGE_AT_ONCE,
        ("tenant", tenant): LARGE_AT_ONCE // 2,
        ("receiver", receiver): LARGE_AT_ONCE // 4,
    }
