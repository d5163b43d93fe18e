"""Where finished pictures are kept for a while, so that they can be fetched again."""

from imagegen_core.storage.store import ImageStore as ImageStore
from imagegen_core.storage.store import StoreDef as StoreDef
from imagegen_core.storage.store import check_key as check_key
from imagegen_core.storage.store import new_key as new_key
from imagegen_core.storage.store import without_password as without_password
