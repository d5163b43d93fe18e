"""Stores for finished pictures: they keep pictures for a while, so that clients can fetch them again."""

from imagegen_core.storage.keys import check_key as check_key
from imagegen_core.storage.keys import is_owned as is_owned
from imagegen_core.storage.keys import is_uuid as is_uuid
from imagegen_core.storage.keys import key_of as key_of
from imagegen_core.storage.keys import new_key as new_key
from imagegen_core.storage.keys import plain_key as plain_key
from imagegen_core.storage.store import DISABLED as DISABLED
from imagegen_core.storage.store import ImageStore as ImageStore
from imagegen_core.storage.store import StoreDef as StoreDef
