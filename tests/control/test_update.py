"""What an update asks of a worker and what it leaves to a restart, decided without either."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackserve.control.groups import StackedGroup
from stackserve.control.launch import AdapterRoom, engine_options, room_of
from stackserve.control.update import (
    NotLive,
    changed_options,
    check_settings,
    clashes,
    difference,
    fitted,
    plan_update,
    switchable,
)
from stackserve.errors import RolloutFailed
from stackserve.protocol import AdapterSpec
from stackserve.server_settings import ServerSettings
from stackserve.settings import GroupSettings
from tests.conftest import Models, read

ROOM = AdapterRoom(slots=2, rank=8)


def spec(name: str, weight: float = 1.0, *, pinned: bool = False) -> AdapterSpec:
    return AdapterSpec(name.partition("@")[0], name, f"/{name}", weight, pinned)


def named(*specs: AdapterSpec) -> dict[str, AdapterSpec]:
    return {each.worker_model: each for each in specs}


@st.composite
def rosters(draw: st.DrawFn) -> dict[str, AdapterSpec]:
    """Each of four keys in at most one version, some pinned."""
    return named(
        *(
            spec(f"{key}@{draw(st.integers(1, 3))}", draw(st.sampled_from([1, 2])), pinned=pinned)
            for key in "abcd"
            if draw(st.booleans())
            for pinned in [draw(st.booleans())]
        )
    )


def pins(known: dict[str, AdapterSpec]) -> int:
    return sum(each.pinned for each in known.values())


def test_nothing_is_asked_of_a_worker_that_knows_what_is_wanted() -> None:
    same = named(spec("a@1"), spec("b@1", 2, pinned=True))
    plan = plan_update(same, same)
    assert (plan.load, plan.adjust, plan.forget) == ((), (), ())


def test_a_replaced_key_is_loaded_and_its_old_version_forgotten() -> None:
    plan = plan_update(named(spec("a@1"), spec("b@1")), named(spec("a@2"), spec("b@1")))
    assert (plan.load, plan.adjust, plan.forget) == ((spec("a@2"),), (), ("a@1",))


def test_the_pin_of_an_old_version_is_given_up_first_and_keeps_the_new_share() -> None:
    known = named(spec("a@1", pinned=True), spec("a@2", 5))
    plan = plan_update(known, named(spec("a@2", 5, pinned=True)))
    assert plan.adjust == (spec("a@1", 5), spec("a@2", 5, pinned=True))


@given(rosters(), rosters())
def test_a_plan_leads_to_what_is_wanted_and_never_to_more_pins_than_before_or_after(
    before: dict[str, AdapterSpec], wanted: dict[str, AdapterSpec]
) -> None:
    known, shares = dict(before), {each.key: each.weight for each in before.values()}
    most = max(pins(before), pins(wanted))
    for step in ("load", "adjust", "forget"):
        for each in getattr(plan_update(known, wanted), step):
            if step == "forget":
                del known[each]
            else:
                known[each.worker_model], shares[each.key] = each, each.weight
            assert pins(known) <= most
    assert known == wanted
    assert all(shares[each.key] == each.weight for each in wanted.values())


def test_what_a_worker_refuses_to_load_is_not_adjusted() -> None:
    plan = plan_update({}, named(spec("a@1", pinned=True)))
    assert plan.adjust == ()


def test_only_members_change_live(models: Models) -> None:
    group = models.group()
    check_settings(group, models.group(members=("b", "c")))
    other_base = models.group(key="other")
    with pytest.raises(NotLive, match=r"base\.key changed"):
        check_settings(group, other_base)
    faster = models.group(seed=1, max_in_flight=2)
    with pytest.raises(NotLive, match=r"engine\.seed, engine\.max_in_flight changed"):
        check_settings(group, faster)


def test_changed_options_are_named(models: Models) -> None:
    server = ServerSettings()
    assert list(changed_options("server", server, server)) == []
    moved = ServerSettings(port=1, host="::")
    assert sorted(changed_options("server", server, moved)) == ["server.host", "server.port"]


def test_a_group_that_fits_stays_as_it_is(models: Models) -> None:
    group = read(models.group(members=("a", "b")))
    assert fitted(group, group, ROOM) is not None
    assert fitted(group, group, ROOM).members == group.members


def test_a_base_whose_files_changed_needs_a_restart(models: Models) -> None:
    group = read(models.group())
    other = replace(group, base=replace(group.base, fingerprint="other"))
    with pytest.raises(NotLive, match="the files of its base changed"):
        fitted(other, group, ROOM)


def test_without_room_only_members_matter(models: Models) -> None:
    none = read(models.group(members=()))
    assert fitted(none, none, None) is none
    with pytest.raises(NotLive, match="started without any adapter"):
        fitted(read(models.group()), none, None)


@pytest.mark.parametrize(("slots", "fits"), [(1, False), (2, True)])
def test_one_slot_is_left_unpinned(models: Models, slots: int, fits: bool) -> None:
    group = read(models.group(members=("a", "b")))
    first, second = group.members
    pinned = replace(group, members=(replace(first, pinned=True), second))
    room = AdapterRoom(slots, 8)
    if fits:
        assert fitted(pinned, group, room).members == pinned.members
    else:
        with pytest.raises(NotLive, match="1 pinned would leave no slot"):
            fitted(pinned, group, room)


def test_a_switch_is_to_all_of_a_group_where_an_update_keeps_what_it_has(models: Models) -> None:
    served = read(models.group(members=("a", "b")))
    large = replace(served.members[0].adapter, digest="new", rank=16)
    new = with_members(served, replace(served.members[0], adapter=large), served.members[1])
    assert {each.adapter.digest for each in fitted(new, served, ROOM).members} == {
        each.adapter.digest for each in served.members
    }
    with pytest.raises(RolloutFailed, match="a: Its rank is 16") as failed:
        switchable(new, served, ROOM)
    assert failed.value.failures.keys() == {"a"}
    assert switchable(served, new, ROOM) == served


def test_the_room_is_what_the_engine_is_told_whoever_wrote_it(models: Models) -> None:
    def room(group: GroupSettings) -> AdapterRoom | None:
        return room_of(engine_options(read(group)))

    assert room(models.group(members=())) is None
    assert room(models.group(members=("a", "b"))) == AdapterRoom(2, 8)
    assert room(models.group(adapter_slots=5, max_rank=64)) == AdapterRoom(5, 64)
    assert room(models.group(vllm_args={"max-loras": 3})) == AdapterRoom(3, 8)


def settings(models: Models, name: str, members: str) -> GroupSettings:
    return models.group(name, tuple(members), key=f"base-{name}")


def test_names_may_move_between_groups_that_both_change(models: Models) -> None:
    running = {"g": settings(models, "g", "a"), "h": settings(models, "h", "b")}
    offered = {"g": settings(models, "g", "b"), "h": settings(models, "h", "a")}
    assert clashes(running, offered) == {}


def test_a_group_that_cannot_change_keeps_its_names_and_so_do_those_that_wait_for_them(
    models: Models,
) -> None:
    running = {name: settings(models, name, key) for name, key in zip("fgh", "abc", strict=True)}
    offered = {"g": settings(models, "g", "a"), "h": settings(models, "h", "b")}
    found = clashes(running, offered)
    assert found.keys() == {"g", "h"}
    assert found["g"].startswith("a is still a name of group f")
    assert found["h"].startswith("b is still a name of group g")


def test_a_difference_is_told_in_numbers(models: Models) -> None:
    old = read(models.group(members=("a", "b", "c")))
    a, b, _ = old.members
    new = with_members(
        old,
        replace(a, share=2),
        replace(b, adapter=replace(b.adapter, digest="other")),
        replace(a, key="d"),
    )
    assert difference(old, new) == "1 added, 1 replaced, 1 adjusted, 1 removed"
    assert difference(old, old) == ""


def with_members(group: StackedGroup, *members: object) -> StackedGroup:
    return replace(group, members=members)  # type: ignore[arg-type]


def test_a_spec_keeps_its_folder_when_it_is_unpinned() -> None:
    wanted = spec("a@1", pinned=True)
    (loaded,) = plan_update({}, named(wanted)).load
    assert loaded == msgspec.structs.replace(wanted, pinned=False)
