"""The mark of the checks that ``imagegen plugins check --quick`` runs.

An engine may take seconds for a picture. The quick checks find the most common faults with about fifteen pictures.
"""

import pytest

QUICK = pytest.mark.imagegen_quick
