from gateway.engine.deliveries import Taken
from gateway.webhook_room import LARGE, LARGE_AT_ONCE, Room

A, B, C = "https://a.example", "https://b.example", "https://c.example"


def test_all_together_are_bounded() -> None:
    room = Room(8, 8)
    assert all(room.enter(f"t{number}", A, 1) for number in range(7))
    assert room.left("t") == 1
    room.enter("t7", A, 1)
    assert room.left("t") == 0
    room.leave("t7", A, 1)
    assert room.left("t") == 1


def test_one_tenant_has_a_fourth() -> None:
    room = Room(8, 8)
    assert room.left("t") == 2
    room.enter("t", A, 1)
    room.enter("t", B, 1)
    assert room.left("t") == 0
    assert room.left("u") == 2


def test_there_is_always_room_for_one() -> None:
    assert Room(1, 1).left("t") == 1


def test_receivers_have_less_while_they_have_some() -> None:
    room = Room(100, 4)
    assert room.taken("t") == []
    room.enter("t", A, 1)
    assert room.taken("t") == [Taken(A, 3, False)]
    room.leave("t", A, 1)
    assert room.taken("t") == []


def test_a_receiver_in_trouble_has_one_until_it_is_well() -> None:
    room = Room(100, 4)
    room.note("t", A, False)
    assert room.taken("t") == [Taken(A, 1, True)]
    room.enter("t", A, 1)
    assert room.taken("t") == [Taken(A, 0, True)]
    room.enter("t", A, 1)  # was under way before
    assert room.taken("t") == [Taken(A, 0, True)]
    room.note("t", A, True)
    assert room.taken("t") == [Taken(A, 2, False)]


def test_those_in_trouble_have_half_of_what_their_tenant_has() -> None:
    room = Room(16, 4)
    assert room.left_for_failing("t") == 2
    for receiver in (A, B, C):
        room.enter("t", receiver, 1)
        room.note("t", receiver, False)
    assert room.left_for_failing("t") == 0
    assert room.left("t") == 1
    assert room.left_for_failing("u") == 2
    room.note("t", C, True)
    room.leave("t", A, 1)
    assert room.left_for_failing("t") == 1


def test_what_a_tenant_does_to_a_receiver_is_nothing_to_others() -> None:
    room = Room(100, 4)
    room.enter("t", A, 1)
    room.note("t", A, False)
    assert room.taken("t") == [Taken(A, 0, True)]
    assert room.taken("u") == []


def test_few_of_those_in_trouble_are_remembered_of_each_tenant() -> None:
    room = Room(100, 4)
    room.note("u", A, False)
    for number in range(1500):
        room.note("t", str(number), False)
    assert room.taken("u") == [Taken(A, 1, True)]
    assert {int(each.receiver) for each in room.taken("t")} == set(range(500, 1500))


def test_large_ones_to_one_receiver_are_bounded() -> None:
    room = Room(100, 4)
    assert room.enter("t", A, LARGE_AT_ONCE // 4 - LARGE)
    assert not room.enter("t", A, LARGE + 1)
    assert room.enter("t", A, LARGE)
    assert room.enter("t", B, LARGE + 1)
    room.leave("t", A, LARGE_AT_ONCE // 4 - LARGE)
    assert room.enter("t", A, LARGE + 1)


def test_large_ones_of_one_tenant_are_bounded() -> None:
    room = Room(100, 4)
    quarter = LARGE_AT_ONCE // 4
    assert all(room.enter("t", receiver, quarter) for receiver in (A, B))
    assert not room.enter("t", C, LARGE + 1)
    assert room.enter("u", C, LARGE + 1)


def test_large_ones_together_are_bounded() -> None:
    room = Room(100, 4)
    quarter = LARGE_AT_ONCE // 4
    assert all(room.enter(f"t{number}", f"https://{number}.example", quarter) for number in range(4))
    assert not room.enter("t", A, LARGE + 1)
    assert room.enter("t", A, LARGE)
    room.leave("t0", "https://0.example", quarter)
    assert room.enter("t", A, quarter)


def test_one_of_any_size_has_room() -> None:
    room = Room(100, 4)
    assert room.enter("t", A, 2 * LARGE_AT_ONCE)
    assert not room.enter("u", B, LARGE + 1)
    room.leave("t", A, 2 * LARGE_AT_ONCE)
    assert room.enter("u", B, 2 * LARGE_AT_ONCE)
