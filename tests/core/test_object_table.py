"""Objects are found by ID in the table of their maker."""

import pytest

from asyncray.core.object_table import ObjectTable
from asyncray.core.records import Client, ObjectEntry
from asyncray.ids import OBJECT_SIZE
from tests.core.test_objects import put
from tests.core.world import World


def client(number: int) -> Client:
    return Client(number, number.to_bytes(12, "big"), "driver", 100 + number)


def entry_of(maker: Client, number: int) -> ObjectEntry:
    return ObjectEntry(maker.id + number.to_bytes(OBJECT_SIZE - len(maker.id), "big"), maker, None)


def test_an_object_is_found_by_the_maker_in_its_id() -> None:
    makers = client(1), client(2)
    entries = [entry_of(maker, number) for maker in makers for number in range(3)]
    table = ObjectTable()
    for entry in entries:
        table.enter(entry)
    assert [table[entry.id] for entry in entries] == entries
    assert list(table) == [entry.id for entry in entries]
    assert table.makers == {maker.id: maker.made for maker in makers}
    assert repr(table) == "<ObjectTable 6 objects of 2 makers>"


def test_an_object_of_an_unknown_maker_or_with_an_unknown_number_is_absent() -> None:
    maker, table = client(1), ObjectTable()
    table.enter(entry_of(maker, 1))
    for stranger in (entry_of(maker, 2).id, entry_of(client(2), 1).id):
        assert stranger not in table
        assert table.get(stranger) is None
        with pytest.raises(KeyError):
            table[stranger]


def test_an_object_that_others_use_is_found_after_the_end_of_its_maker() -> None:
    world = World()
    maker, borrower = world.driver(), world.driver()
    ref, alone = put(maker), put(maker)
    world.talk()
    borrower.hold(ref)
    world.talk()
    table = world.machine.objects.table
    assert {ref, alone} <= set(table)
    world.machine.client_disconnected(maker.client)
    assert ref in table
    assert alone not in table
    borrower.drop(ref)
    world.talk()
    assert maker.client.id not in table.makers
