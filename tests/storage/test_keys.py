"""Whose a picture is, by its key."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from imagegen_core.storage import check_key, is_owned, is_uuid, key_of, new_key

_OWNERS = st.text(alphabet="0123456789abcdef", max_size=12)


@given(owner=_OWNERS, other=_OWNERS)
def test_a_key_that_the_server_makes_is_a_uuid_that_says_whose_it_is(owner: str, other: str) -> None:
    key = new_key(owner)
    assert (uuid.UUID(key).version, uuid.UUID(key).variant) == (8, uuid.RFC_4122)
    assert is_uuid(check_key(key))
    assert is_owned(key, owner)
    assert is_owned(key, other) is (owner == other)


@given(key=st.uuids())
def test_other_uuids_are_nobodys(key: uuid.UUID) -> None:
    assert is_uuid(str(key))
    assert not is_owned(str(key), "owner")


def test_a_key_changed_in_any_digit_is_nobodys() -> None:
    key = new_key("owner")
    for place, digit in enumerate(key):
        if digit != "-" and place not in (14, 19):  # the version, and the variant's digit
            assert not is_owned(f"{key[:place]}{int(digit, 16) ^ 1:x}{key[place + 1 :]}", "owner")


@given(one=st.tuples(_OWNERS.filter(bool), st.text()), other=st.tuples(_OWNERS.filter(bool), st.text()))
def test_no_two_owners_share_a_key(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (key_of(*one) == key_of(*other)) is (one == other)
    assert check_key(key_of(*one)) == key_of(*one)


def test_without_owners_keys_are_as_clients_choose_them() -> None:
    assert key_of("", "a.png") == "a.png"
