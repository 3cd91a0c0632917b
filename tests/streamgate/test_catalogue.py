"""What can be chosen by name is what the configuration language names."""

from typing import get_args

from routers.balance import Hash, LeastInFlight, LeastRtt, RoundRobin
from streamgate.catalogue import PICKERS
from streamgate.config.spec_service import Service


def test_every_balance_of_the_configuration_has_its_picker_and_none_is_hidden():
    assert tuple(PICKERS) == get_args(Service.model_fields["balance"].annotation)


def test_a_name_makes_a_new_picker_of_its_kind():
    kinds = {"round_robin": RoundRobin, "least_in_flight": LeastInFlight, "least_rtt": LeastRtt, "hash": Hash}
    for name, kind in kinds.items():
        one, other = PICKERS[name](lambda: 0.0), PICKERS[name](lambda: 0.0)
        assert type(one) is kind
        assert one is not other
