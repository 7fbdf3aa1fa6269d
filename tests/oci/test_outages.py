"""A client of a server whose database does not answer is told to ask again."""

from __future__ import annotations

import oci
import pytest

from tests.oci.conftest import COMPARTMENT, ControlPlane


def test_a_database_that_does_not_answer_is_no_fault_of_the_client(plane: ControlPlane) -> None:
    plane.database.close()
    with pytest.raises(oci.exceptions.ServiceError, match="the database is closed") as caught:
        plane.client.list_projects(COMPARTMENT)
    assert (caught.value.status, caught.value.code) == (503, "ServiceUnavailable")
