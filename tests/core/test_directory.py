"""The directory of names: claimed once, freed only for the actor that has the name."""

from asyncray.core.directory import Directory, Registration

NAME = ("ns", "ann")


def test_a_name_is_claimed_once() -> None:
    directory = Directory()
    assert directory.claim(NAME, b"first", b"handle") is None
    taken = Registration(b"first", b"handle", alive=True)
    assert directory.claim(NAME, b"second", b"other") == taken
    assert directory.find(NAME) == taken
    assert directory.claim(("elsewhere", "ann"), b"second", b"other") is None


def test_only_the_actor_that_has_a_name_frees_it() -> None:
    directory = Directory()
    directory.claim(NAME, b"first", b"")
    directory.free(NAME, b"first")
    directory.claim(NAME, b"second", b"")
    directory.free(NAME, b"first")  # a message that comes late, or twice
    directory.died(NAME, b"first")
    assert directory.find(NAME) == Registration(b"second", b"", alive=True)


def test_a_dead_actor_keeps_its_name_and_is_not_listed() -> None:
    directory = Directory()
    directory.claim(NAME, b"first", b"")
    directory.claim(("other", "bob"), b"second", b"")
    assert list(directory.list(None)) == [NAME, ("other", "bob")]
    assert list(directory.list("ns")) == [NAME]
    directory.died(NAME, b"first")
    assert list(directory.list("ns")) == []
    assert directory.claim(NAME, b"third", b"") == Registration(b"first", b"", alive=False)
    directory.free(NAME, b"first")
    directory.died(NAME, b"first")
    directory.free(NAME, b"first")
    assert directory.find(NAME) is None
