"""How many webhooks are under way at once, and of what size."""

from collections import Counter

from .engine.deliveries import Taken

PARTS_OF_A_TENANT = 4
"""One tenant may have a fourth of all."""

LARGE = 65_536
LARGE_AT_ONCE = 134_217_728
"""Bytes: so much is under way of bodies that are larger, of one receiver a fourth, of one tenant a half; or else only
one, of whatever size."""

MOST_FAILING = 1000

Receiver = tuple[str, str]
"""A tenant and a receiver of its webhooks."""


class Room:
    """What is under way in this process.

    A receiver that was in trouble gets one at a time, until it has been well. All of a tenant's that are share half of
    what the tenant has, so that there is always something for the others. What one tenant does to a receiver is nothing
    to the others: to each it is another one.
    """

    def __init__(self, most: int, each: int) -> None:
        """`most` at once in all, `each` for one receiver."""
        self._most = most
        self._most_of_one = max(1, most // PARTS_OF_A_TENANT)
        self._each = each
        self._count = 0
        self._tenants: Counter[str] = Counter()
        self._receivers: Counter[Receiver] = Counter()
        self._large: Counter[tuple[str, ...]] = Counter()
        self._failing: dict[Receiver, None] = {}

    def left(self, tenant: str) -> int:
        """How many more there may be for a tenant."""
        return min(self._most - self._count, self._most_of_one - self._tenants[tenant])

    def left_for_failing(self, tenant: str) -> int:
        """How many more of these may be for receivers in trouble."""
        taken = sum(count for each, count in self._receivers.items() if each[0] == tenant and each in self._failing)
        return max(0, max(1, self._most_of_one // 2) - taken)

    def taken(self, tenant: str) -> list[Taken]:
        """The receivers of a tenant that may have fewer than others, and how many more."""
        known = {each for each in (*self._receivers, *self._failing) if each[0] == tenant}
        return [
            Taken(each[1], max(0, self._most_for(each) - self._receivers[each]), each in self._failing)
            for each in known
        ]

    def enter(self, tenant: str, receiver: str, size: int) -> bool:
        """Lets a delivery of so many bytes begin, if there is room for them."""
        if size > LARGE:
            places = _places(tenant, receiver)
            if any(self._large[place] and self._large[place] + size > most for place, most in places.items()):
                return False
            self._large.update(dict.fromkeys(places, size))
        self._count += 1
        self._tenants[tenant] += 1
        self._receivers[tenant, receiver] += 1
        return True

    def leave(self, tenant: str, receiver: str, size: int) -> None:
        """It has ended."""
        if size > LARGE:
            self._large -= Counter(dict.fromkeys(_places(tenant, receiver), size))
        self._count -= 1
        self._tenants -= Counter([tenant])
        self._receivers -= Counter([(tenant, receiver)])

    def note(self, tenant: str, receiver: str, is_well: bool) -> None:
        """How the receiver was found."""
        self._failing.pop((tenant, receiver), None)
        if not is_well:
            self._failing[tenant, receiver] = None
            if len(self._failing) > MOST_FAILING:
                del self._failing[next(iter(self._failing))]

    def _most_for(self, receiver: Receiver) -> int:
        return min(1, self._each) if receiver in self._failing else self._each


def _places(tenant: str, receiver: str) -> dict[tuple[str, ...], int]:
    """Where large bodies are counted, and how many bytes there may be."""
    return {(): LARGE_AT_ONCE, (tenant,): LARGE_AT_ONCE // 2, (tenant, receiver): LARGE_AT_ONCE // 4}
