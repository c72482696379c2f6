"""Names of files that came from elsewhere: an open manager knows them, and makes no second dimension of the name."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
from world import manager

import jessy_mem as jm
from helpers import plain_file


def spec(text: str = "x") -> jm.LayerSpec:
    return jm.LayerSpec(text=text)


def build(base: Path, dimension: int, name: str, text: str = "x") -> Path:
    return jm.RegionBuilder(dimension, name).add_layer(spec(text)).write(jm.region_path(base, dimension))


def archive(tmp_path: Path, *dimensions: tuple[int, str]) -> Path:
    """An archive of dimensions that were built elsewhere."""
    source = tmp_path / f"source {len(list(tmp_path.iterdir()))}"
    for dimension, name in dimensions:
        build(source, dimension, name, f"imported {name}")
    jm.export_base(source, source / "x.tar")
    return source / "x.tar"


def import_(base: Path, tmp_path: Path, dimension: int, name: str) -> None:
    jm.import_base(archive(tmp_path, (dimension, name)), base)


def build_one(base: Path, tmp_path: Path, dimension: int, name: str) -> None:
    build(base, dimension, name)


def copy(base: Path, tmp_path: Path, dimension: int, name: str) -> None:
    shutil.copytree(build(tmp_path / "from", dimension, name).parent, base / f"D{dimension}")


@pytest.fixture
def base(tmp_path):
    return tmp_path / "base"


@pytest.fixture
def memory(base):
    """A manager that has asked for names before."""
    with manager(base) as opened:
        opened.ensure_dimension("one", [spec()])
        assert opened.names() == {"one": 15}
        assert opened.find("user:ann") is None
        yield opened


def test_name_in_a_file_that_another_tool_wrote_is_the_same_in_each_normal_form(tmp_path):
    region = jm.region_path(tmp_path, 15)
    region.parent.mkdir()
    region.write_bytes(plain_file(dimension_id=15, name="re\u0301sume\u0301".encode()))
    with manager(tmp_path) as memory:
        for load in (memory.names, memory.load_all):
            load()
            assert memory.names() == {"r\u00e9sum\u00e9": 15}
            assert memory.find("re\u0301sume\u0301") == memory.find("r\u00e9sum\u00e9") == 15
        memory.append_layer(15, spec())
        memory.compact(15)
        assert memory.names() == {"r\u00e9sum\u00e9": 15}


@pytest.mark.parametrize("see", ["load_dimension", "load_all", "refresh"])
def test_new_name_of_a_file_that_was_built_anew_is_known_when_it_was_looked_at(see, base):
    """The register tells the old one, and a dimension of the new name would be its second."""
    with manager(base) as memory:
        assert memory.ensure_dimension("old", [spec()]) == 15
        assert memory.ensure_dimension("other", [spec()]) == 16
    build(base, 15, "new")
    with manager(base) as memory:
        getattr(memory, see)(*[15] * (see == "load_dimension"))
        assert (memory.find("new"), memory.find("old")) == (15, None)
        assert memory.names() == {"new": 15, "other": 16}
        assert memory.ensure_dimension("new", [spec()]) == 15
        memory.ensure_dimension("a third", [spec()])
    with manager(base) as memory:  # for it was told
        assert memory.names() == {"new": 15, "other": 16, "a third": 17}


@pytest.mark.parametrize("dimension", [1000, 1500, 16])
@pytest.mark.parametrize("come", [import_, build_one, copy])
@pytest.mark.parametrize("see", ["refresh", "load_all", "load_dimension"])
def test_name_of_a_file_that_came_is_known_when_it_was_looked_at(come, see, dimension, memory, base, tmp_path):
    come(base, tmp_path, dimension, "user:ann")
    getattr(memory, see)(*[dimension] * (see == "load_dimension"))
    assert (memory.find("user:ann"), memory.names()) == (dimension, {"one": 15, "user:ann": dimension})
    assert memory.ensure_dimension("user:ann", [spec("new")], user=True) == dimension
    with pytest.raises(jm.DimensionExists):
        memory.create_proto_dimension("user:ann", [spec("new")], user=True)
    with manager(base) as other:
        assert other.names() == {"one": 15, "user:ann": dimension}


@pytest.mark.parametrize("follow", ["auto", "never"])
@pytest.mark.parametrize("dimension", [1000, 1500])
def test_name_that_was_imported_is_known_at_once(follow, dimension, base, tmp_path):
    with manager(base, follow=follow) as memory:
        memory.ensure_dimension("one", [spec()])
        assert memory.names() == {"one": 15}
        import_(base, tmp_path, dimension, "user:ann")
        assert memory.find("user:ann") == dimension
        assert memory.ensure_dimension("user:ann", [spec("new")], user=True) == dimension
        assert memory[dimension, 0].text == "imported user:ann"


@pytest.mark.parametrize("come", [build_one, copy])
@pytest.mark.parametrize("make", ["ensure_dimension", "create_proto_dimension"])
def test_name_that_the_next_id_came_with_is_not_given_again(come, make, memory, base, tmp_path):
    """Nobody has looked at it: who would take its id does."""
    come(base, tmp_path, 1000, "user:ann")
    if make == "ensure_dimension":
        assert memory.ensure_dimension("user:ann", [spec("new")], user=True) == 1000
    else:
        with pytest.raises(jm.DimensionExists):
            memory.create_proto_dimension("user:ann", [spec("new")], user=True)
    assert memory.find("user:ann") == 1000
    assert memory.ensure_dimension("user:bob", [spec()], user=True) == 1001


def test_core_file_that_was_built_is_known_by_name(memory, base):
    build(base, 3, "Intention")
    with manager(base) as other:
        other.append_layer(3, spec("more"))
        assert memory.find("Intention") == 3
        assert memory.names() == {"one": 15, "Intention": 3}


def test_simulated_dimension_whose_file_came_is_known_by_name(base):
    with manager(base, simulation="auto") as memory:
        assert memory.names() == {}
        with pytest.warns(UserWarning, match="simulated"):
            memory.load_dimension(3)
        build(base, 3, "Intention")
        memory.refresh()
        assert (memory.find("Intention"), memory.names()) == (3, {"Intention": 3})


@pytest.mark.parametrize("is_mapped", [True, False])
def test_name_of_what_was_replaced_is_that_of_the_new_file(is_mapped, memory, base, tmp_path):
    if is_mapped:
        assert memory[15, 0].text == "x"
    jm.import_base(archive(tmp_path, (15, "other")), base, replace_existing=True)
    assert (memory.find("other"), memory.find("one"), memory.names()) == (15, None, {"other": 15})
    memory.append_layer(15, spec())
    with manager(base) as other:
        assert other.names() == {"other": 15}


def test_name_of_a_base_that_another_program_put_there(memory, base):
    """Its generation is later, and so it is read."""
    assert memory[15, 0].text == "x"
    jm.RegionBuilder(15, "other", generation=7).add_layer(spec("y")).write(base / "D15" / "region.mmap")
    assert memory.refresh().changed == [15]
    assert memory[15, 0].text == "y"
    assert (memory.find("other"), memory.find("one")) == (15, None)


def test_name_of_what_was_replaced_before_anybody_asked_for_names(base):
    """What was told of the dimension when it was made is not what it is called now."""
    with manager(base) as memory:
        dimension = memory.create_proto_dimension("one", [spec()])
        memory.crystallize(dimension)
        jm.RegionBuilder(dimension, "other", generation=7).add_layer(spec("y")).write(jm.region_path(base, dimension))
        assert memory.refresh().changed == [dimension]
        assert memory[dimension, 0].text == "y"
        assert (memory.find("other"), memory.find("one"), memory.names()) == (dimension, None, {"other": dimension})


def test_file_of_ones_own_path_has_no_name_in_the_base_folder(memory, tmp_path):
    memory.load_dimension(20, build(tmp_path / "elsewhere", 20, "elsewhere"))
    assert memory.find("elsewhere") == memory.names()["elsewhere"] == 20  # for who has loaded it
    with manager(memory.config.base_path) as other:
        assert other.find("elsewhere") is None
    with manager(memory.config.base_path) as other:
        other.ensure_dimension("two")
        assert other.names() == {"one": 15, "two": 16}


def test_name_of_what_was_forgotten_does_not_come_back_with_its_mapping(memory, base):
    with manager(base) as other:
        other.forget(15)
    assert (memory.find("one"), memory.names()) == (None, {})
    assert memory.ensure_dimension("one", [spec()]) == 16


# Imports and what others do meanwhile ---------------------------------------------------------------------------------


def before_put(inject, deed):
    """Do something after the last look at all, before the first dimension is published."""

    def around(put):
        def late(importer, dimension, images):
            if not done:
                done.append(deed())
            put(importer, dimension, images)

        return late

    done: list[object] = []
    # Private: a moment that no other call meets.
    return inject.around("jessy_mem.archive._Importer.put", around)


def test_name_that_another_takes_during_an_import_is_its(memory, base, tmp_path, inject):
    taken = before_put(inject, lambda: memory.ensure_dimension("a"))
    with taken, pytest.raises(jm.ImportConflict, match="the name 'a' is that of D16"):
        import_(base, tmp_path, 20, "a")
    assert not (base / "D20").exists()
    assert memory.names() == {"one": 15, "a": 16}


@pytest.mark.parametrize("replace", [True, False])
def test_name_that_another_takes_with_the_id_of_one_that_comes_is_its(replace, memory, base, tmp_path, inject):
    """D16 would be "b", so that its name would be free: but it is not what was looked at."""
    came = archive(tmp_path, (17, "a"), (16, "b"))
    taken = before_put(inject, lambda: memory.ensure_dimension("a"))
    with taken, pytest.raises(jm.ImportConflict):
        jm.import_base(came, base, replace_existing=replace)
    assert memory.names()["a"] == 16
    assert not (base / "D17").exists()


def test_dimensions_may_change_their_names(memory, base, tmp_path):
    memory.ensure_dimension("two", [spec()])
    jm.import_base(archive(tmp_path, (15, "two"), (16, "one")), base, replace_existing=True)
    assert memory.names() == {"two": 15, "one": 16}
    assert [memory[each, 0].text for each in (15, 16)] == ["imported two", "imported one"]
    with manager(base) as other:
        assert other.names() == {"two": 15, "one": 16}


# Ids that were given -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replace", [True, False])
def test_id_of_a_name_without_layers_is_not_taken_by_an_import(replace, memory, base, tmp_path):
    bob = memory.ensure_dimension("user:bob")
    with pytest.raises(jm.ImportConflict, match="given to 'user:bob', which has no layer yet") as refused:
        jm.import_base(archive(tmp_path, (bob, "a"), (20, "b")), base, replace_existing=replace)
    assert list(refused.value.dimensions) == [bob]
    assert memory.refresh().added == []
    memory.append_layer(bob, spec("of bob"))
    assert memory[bob, 0].text == "of bob"
    with manager(base) as other:
        assert other.names() == {"one": 15, "user:bob": bob}


@pytest.mark.parametrize("see", ["nothing", "refresh", "load", "other"])
def test_file_that_came_to_the_id_of_a_name_without_layers_does_not_get_its_layers(see, memory, base, tmp_path):
    """Of no process to which the id was given; the next that asks by name gets another."""
    with manager(base) as other:
        dimension = memory.ensure_dimension("ann", user=True)
        assert other.ensure_dimension("ann") == dimension
        builder = jm.RegionBuilder(dimension, "bob").add_layer(jm.LayerSpec(text="of bob"))
        builder.write(jm.region_path(base, dimension))
        if see == "refresh":
            memory.refresh()
        elif see == "load":
            memory.load_dimension(dimension)
        elif see == "other":
            assert other.ensure_dimension("ann", [jm.LayerSpec(text="of ann")], user=True) == dimension + 1
        with pytest.raises(jm.RegionNotFound, match="'bob' came to where the file of 'ann' would be"):
            memory.append_layer(dimension, jm.LayerSpec(text="of ann"))
        for each in (memory, other):
            assert each.ensure_dimension("ann", [jm.LayerSpec(text="of ann")], user=True) == dimension + 1
            assert each.find("bob") == dimension
            assert each.load_dimension(dimension, exist_ok=True).n_layers == 1
        assert memory.append_layer(dimension, jm.LayerSpec(text="of bob, too")) == (dimension, 1)


def test_name_without_layers_may_get_its_own_from_an_import(memory, base, tmp_path):
    bob = memory.ensure_dimension("user:bob")
    import_(base, tmp_path, bob, "user:bob")
    assert memory.append_layer(bob, spec("more")) == (bob, 1)
    assert memory[bob, 0].text == "imported user:bob"


@pytest.mark.parametrize("name", ["mine", "a"])
@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("layers", [[], [spec("learned")]])
def test_id_of_a_proto_dimension_is_not_taken_by_an_import(layers, replace, name, memory, base, tmp_path):
    mine = memory.create_proto_dimension("mine", layers)
    with pytest.raises(jm.ImportConflict, match="'mine', which a process has learned"):
        jm.import_base(archive(tmp_path, (mine, name)), base, replace_existing=replace)
    memory.append_layer(mine, spec("learned"))
    memory.crystallize(mine)
    with manager(base) as other:
        assert other.names() == {"one": 15, "mine": mine}


@pytest.mark.parametrize("lost", ["forgotten", "folder", "all"])
def test_what_was_lost_comes_back_from_its_archive(memory, base, tmp_path, lost):
    came = tmp_path / "backup.tar"
    jm.export_base(base, came)
    if lost == "forgotten":
        memory.forget(15)
    else:
        memory.close()
        shutil.rmtree(base if lost == "all" else base / "D15")
    assert jm.import_base(came, base).added == [15]
    with manager(base) as again:
        assert again.find("one") == 15
        assert again.ensure_dimension("one") == 15
        assert again[15, 0].text == "x"
    assert jm.import_base(came, base).unchanged == [15]


def test_ids_behind_those_that_were_given_are_free_for_an_import(memory, base, tmp_path):
    import_(base, tmp_path, 17, "a")
    import_(base, tmp_path, 16, "b")
    assert memory.ensure_dimension("next") == 18


@pytest.fixture
def displaced(base):
    """A manager whose proto-dimension has another's file in its place: copied, for an import takes no such id."""
    with manager(base) as opened:
        assert opened.create_proto_dimension("mine", [spec("learned")]) == 15
        opened.append_layer(15, spec("and more"))
        build(base, 15, "a", "of another")
        yield opened


def texts(base: Path) -> dict[tuple[int, int], str]:
    with manager(base) as other:
        other.load_all()
        return {tuple(layer): view.text for layer, view in other.items()}


OF_ANOTHER = {(15, 0): "of another"}
SAVED = {(16, 0): "learned", (16, 1): "and more"}


def test_proto_dimension_in_whose_place_another_file_is_gets_the_next_id_at_the_end(displaced, base, caplog):
    for _ in range(2):
        with pytest.raises(jm.AlreadyPublished, match=r"close\(\) saves it under the next id"):
            displaced.crystallize(15)
    assert displaced[15, 0].text == "learned"
    displaced.close()
    assert "D15, which is 'mine', is saved as D16" in caplog.text
    assert texts(base) == {**OF_ANOTHER, **SAVED}
    with manager(base) as other:
        assert other.names() == {"a": 15, "mine": 16}
        assert other.ensure_dimension("next", [spec()]) == 17


def test_the_same_at_the_last_reference_and_of_one_of_many(base):
    memory = manager(base)
    for name in ("mine", "second", "user:ann"):
        memory.create_proto_dimension(name, [spec(name)], user=name == "user:ann")
    build(base, 15, "a", "of another")
    build(base, 1000, "user:bob", "of another")
    del memory
    assert texts(base) == {
        (15, 0): "of another",
        (16, 0): "second",
        (17, 0): "mine",
        (1000, 0): "of another",
        (1001, 0): "user:ann",
    }
    with manager(base) as other:
        assert other.names() == {"a": 15, "second": 16, "mine": 17, "user:bob": 1000, "user:ann": 1001}


def test_proto_dimension_in_whose_place_another_file_is_can_be_forgotten(displaced, base):
    displaced.forget(15)
    assert displaced.find("a") == 15
    assert displaced.refresh().added == [15]
    assert displaced[15, 0].text == "of another"
    assert (displaced.find("a"), displaced.find("mine")) == (15, None)
    displaced.close()
    assert texts(base) == OF_ANOTHER
    with manager(base) as other:
        assert other.names() == {"a": 15}


def test_proto_dimension_whose_very_name_came_with_its_id_stays_until_it_is_forgotten(base):
    with manager(base) as memory:
        memory.create_proto_dimension("mine", [spec("learned")])
        build(base, 15, "mine", "of another")
        with pytest.raises(jm.AlreadyPublished, match=r"forget\(\) drops it"):
            memory.close()
        assert memory[15, 0].text == "learned"
        memory.forget(15)
    assert texts(base) == OF_ANOTHER


@pytest.mark.parametrize("end", ["forget", "close"])
def test_file_keeps_its_name_for_all_when_what_it_displaced_goes(end, base):
    with manager(base) as other, manager(base, on_close="drop") as memory:
        memory.create_proto_dimension("mine", [spec("learned")])
        build(base, 15, "a", "of another")
        other.refresh()
        other.load_dimension(15, exist_ok=True)
        assert other.find("a") == 15
        memory.forget(15) if end == "forget" else memory.close()
        assert (other.find("mine"), other.names()) == (None, {"a": 15})
        assert other.ensure_dimension("a", [spec()]) == 15


@pytest.mark.parametrize("call", ["reserve", "publish"])
def test_end_that_cannot_save_under_another_id_loses_nothing(call, displaced, base, inject):
    second = displaced.create_proto_dimension("second", [spec("second")])
    # Private: what the end does for this one alone.
    where = {"reserve": "jessy_mem.ids.IdRegister.reserve", "publish": "jessy_mem.files.Files.publish"}[call]
    with (
        inject(jm.MappingError(errno.ENOSPC, "No space left on device", "x"), where),
        pytest.raises(jm.MappingError, match="No space"),
    ):
        displaced.close()
    assert displaced[15, 0].text == "learned"
    assert displaced[second, 0].text == "second"
    displaced.close()
    found = texts(base)
    assert [found.pop(each) for each in [(15, 0), (second, 0)]] == ["of another", "second"]
    assert list(found.values()) == ["learned", "and more"]
