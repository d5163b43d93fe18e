"""Keys of pictures, and the owner that a key identifies."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from imagegen_core.storage import check_key, is_owned, is_uuid, key_of, new_key

_OWNERS = st.text(alphabet="0123456789abcdef", max_size=12)


@given(owner=_OWNERS, other=_OWNERS)
def test_a_new_key_is_a_uuid_that_identifies_its_owner(owner: str, other: str) -> None:
    key = new_key(owner)
    assert (uuid.UUID(key).version, uuid.UUID(key).variant) == (8, uuid.RFC_4122)
    assert is_uuid(check_key(key))
    assert is_owned(key, owner)
    assert is_owned(key, other) is (owner == other)


@given(key=st.uuids())
def test_other_uuids_have_no_owner(key: uuid.UUID) -> None:
    assert is_uuid(str(key))
    assert not is_owned(str(key), "owner")


def test_a_key_with_a_changed_digit_has_no_owner() -> None:
    key = new_key("owner")
    for place, digit in enumerate(key):
        if digit != "-" and place not in (14, 19):  # the digits of the version and the variant
            assert not is_owned(f"{key[:place]}{int(digit, 16) ^ 1:x}{key[place + 1 :]}", "owner")


@given(first=st.tuples(_OWNERS.filter(bool), st.text()), second=st.tuples(_OWNERS.filter(bool), st.text()))
def test_no_two_owners_share_a_key(first: tuple[str, str], second: tuple[str, str]) -> None:
    assert (key_of(*first) == key_of(*second)) is (first == second)
    assert check_key(key_of(*first)) == key_of(*first)


def test_without_an_owner_a_key_stays_as_the_client_chose_it() -> None:
    assert key_of("", "a.png") == "a.png"
