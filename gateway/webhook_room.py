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
"""Receivers in trouble that are remembered of one tenant."""

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
        self._failing: dict[str, dict[str, None]] = {}

    def left(self, tenant: str) -> int:
        """How many more there may be for a tenant."""
        return min(self._most - self._count, self._most_of_one - self._tenants[tenant])

    def left_for_failing(self, tenant: str) -> int:
        """How many more of these may be for receivers in trouble."""
        taken = sum(self._receivers[tenant, each] for each in self._failing.get(tenant, ()))
        return max(0, max(1, self._most_of_one // 2) - taken)

    def taken(self, tenant: str) -> list[Taken]:
        """The receivers of a tenant that may have fewer than others, and how many more."""
        failing = self._failing.get(tenant, {})
        known = failing | {each: None for of, each in self._receivers if of == tenant}
        return [
            Taken(each, max(0, self._most_for(each in failing) - self._receivers[tenant, each]), each in failing)
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
        failing = self._failing.setdefault(tenant, {})
        failing.pop(receiver, None)
        if not is_well:
            failing[receiver] = None
            if len(failing) > MOST_FAILING:
                del failing[next(iter(failing))]
        if not failing:
            del self._failing[tenant]

    def _most_for(self, in_trouble: bool) -> int:
        return min(1, self._each) if in_trouble else self._each


def _places(tenant: str, receiver: str) -> dict[tuple[str, ...], int]:
    """Where large bodies are counted, and how many bytes there may be."""
    return {(): LARGE_AT_ONCE, (tenant,): LARGE_AT_ONCE // 2, (tenant, receiver): LARGE_AT_ONCE // 4}
