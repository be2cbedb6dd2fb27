"""Every mistake in a configuration is one line that names the key and the mend."""

from pathlib import Path

import pytest

from splitcom_dist.config.files import load_config, preset_folder, to_yaml
from splitcom_dist.config.ranges import AT_LEAST, CHOICES
from splitcom_dist.config.schema import Config, all_keys, lookup
from splitcom_dist.errors import UserError


def test_later_files_and_overrides_win(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("train: {lr: 1e-5, epochs: 7}\n")
    (tmp_path / "two.yaml").write_text("train: {lr: 2e-5}\n")
    config = load_config([tmp_path / "one.yaml", tmp_path / "two.yaml"], ["train.batch_size=3"])
    assert (config.train.lr, config.train.epochs, config.train.batch_size) == (2e-5, 7, 3)


def test_included_files_come_before_the_file_that_includes_them(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("train: {epochs: 1, lr: 1e-5}\nmodel: {cut_layer: 4}\n")
    (tmp_path / "more.yaml").write_text("train: {epochs: 2}\n")
    (tmp_path / "top.yaml").write_text("include: [base.yaml, more.yaml]\ntrain: {lr: 3e-5}\n")
    config = load_config([tmp_path / "top.yaml"])
    assert (config.train.epochs, config.train.lr, config.model.cut_layer) == (2, 3e-5, 4)


@pytest.mark.parametrize("path", sorted(preset_folder().rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_file_resolves_and_round_trips(path: Path, tmp_path: Path) -> None:
    gated = ["codec=splitcom"] if path.parent.name == "control" else []  # a controller needs a threshold to move
    config = load_config([path], gated)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load_config([tmp_path / "config.yaml"]) == config


def test_a_preset_name_replaces_the_group() -> None:
    config = load_config([], ["codec=frozen"])
    assert (config.codec.name, config.codec.up_activation.gate) == ("frozen", "once")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lrr=3", "unknown key train.lrr; did you mean train.lr?"),
        ("cut_layer=3", "unknown key cut_layer; did you mean model.cut_layer?"),
        ("quark=1", "unknown key quark; `--dry-run` prints every key"),
        ("train.lr=fast", "train.lr: Value 'fast' of type 'str' could not be converted to Float"),
        ("train.epochs=null", "train.epochs: Incompatible value 'None'"),
        ("fed.every=2.5", "fed.every: Value '2.5' of type 'float' could not be converted to Integer"),
        ("train=3", "a group of keys needs keys and values below it"),
        ("codec=none_such", "no such preset; codec has"),
        ("train.lr", "train.lr: overrides are written key=value"),
        ("roles.server_ranks=4", "more than roles.client_ranks=3"),
        ("fed.clients=2", "fed.clients=2 is fewer than roles.client_ranks=3"),
        ("codec.up_activation.theta=1.5", "a cosine lies between -1 and 1"),
        ("codec.up_activation.gate=once", "go together"),
        ("fed.cut_layers=[1,2]", "fed.cut_layers: 2 cuts for fed.clients=3; give one for each"),
        ("fed.cut_layers=[1,2,0]", "a cut at 0: every client has at least 1 block"),
        ("fed.cut_layers=2", "fed.cut_layers"),
        ("fed.cuts.policy=splitft", "say with fed.cuts.deepest how many blocks a client may train at most"),
        ("roles.server_batching=all", "roles.server_batching=all: choose one of sequential, merged, arrival"),
        ("fed.cuts.policy=fastest", "fed.cuts.policy=fastest: choose one of static, balance_time, splitft"),
        ("fed.speed.dist=list", "fed.speed.values: 0 speeds for fed.clients=3; give one for each"),
        ("fed.speed.values=[1,2]", "fed.speed.values=2.0: a speed is above 0 and at most 1"),
        ("fed.speed.low=0", "fed.speed.low=0.0: a speed is above 0 and at most 1"),
        ("fed.speed.high=0.1", "fed.speed.low=0.25: must not exceed fed.speed.high=0.1"),
        ("fed.straggler=deadline", "say with fed.deadline_seconds how long a client may compute in a round"),
        ("fed.participation=0", "must be above 0 and at most 1"),
        ("fed.resident=-1", "fed.resident=-1: must be at least 0"),
        ("lora.cut_rank=9", "lora.cut_rank=9: must not exceed lora.rank=8"),
        ("lora.ranks=[8,4]", "lora.ranks: 2 ranks for fed.clients=3; give one for each"),
        ("lora.ranks=[8,4,0]", "lora.ranks=0: a client's rank is at least 1 and at most lora.rank=8"),
        ("lora.ranks=[8,4,9]", "lora.ranks=9: a client's rank is at least 1 and at most lora.rank=8"),
        ("lora.dropout=1", "lora.dropout=1.0: must be at least 0 and below 1"),
        ("data.path=/silo/{client}", "data.validation_path"),
        ("data.partition=dirichlet_label", "say by which field with data.label_field"),
        ("data.alpha=0", "data.alpha=0.0: must be above 0 and finite"),
        ("data.alpha=inf", "data.alpha=inf: must be above 0 and finite"),
        ("train.lr=nan", "train.lr=nan: must be at least 0"),
        ("control.name=bang_bang", "codec none has no threshold to move"),
        ("control.activation.low=0.9999", "must not exceed control.activation.high"),
        ("control.gradient.high=2", "a cosine lies between -1 and 1"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config([], [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "fed.lost=go_on",
        "fed.adapter_quantizer=int8",
        "roles.server_shards=2",
        "codec=frozen",
        "codec=video rest.policy=every_k",
    ],
)
def test_what_different_cuts_cannot_do_is_refused_and_equal_ones_can(override: str) -> None:
    load_config([], [*override.split(), "fed.cut_layers=[2,2,2]"])
    with pytest.raises(UserError, match=r"fed\.cut_layers") as caught:
        load_config([], [*override.split(), "fed.cut_layers=[2,1,2]"])
    assert "equal cuts" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"fed\.cuts move") as caught:
        load_config([], [*override.split(), "fed.cuts.policy=splitft", "fed.cuts.deepest=3"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ("fed.cuts.deepest=1", r"fed\.cuts\.shallowest=1: must be below fed\.cuts\.deepest=1"),
        ("fed.cuts.deepest=3 model.cut_layer=4", r"model\.cut_layer=4: begins outside .* to fed\.cuts\.deepest=3"),
        ("fed.cuts.deepest=3 fed.cut_layers=[2,4,1]", r"fed\.cut_layers=4: begins outside"),
    ],
)
def test_cuts_that_move_begin_within_their_bounds(bounds: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config([], ["fed.cuts.policy=balance_time", *bounds.split()])


@pytest.mark.parametrize("batching", ["merged", "arrival"])
@pytest.mark.parametrize("override", ["model.tail_layers=1", "roles.server_shards=2"])
def test_what_cannot_be_merged_is_refused(override: str, batching: str) -> None:
    with pytest.raises(UserError, match=r"or roles\.server_batching=sequential"):
        load_config([], [f"roles.server_batching={batching}", override])


def test_nobody_is_served_as_he_comes_over_nccl() -> None:
    with pytest.raises(UserError, match="transport=nccl has one transfer under way at a time; set transport=tcp"):
        load_config([], ["roles.server_batching=arrival", "transport=nccl", "runtime.device=cuda"])


@pytest.mark.parametrize("overrides", [["shape=u_shape", "lora.dropout=0.1"], ["transport=nccl"]])
def test_what_depends_on_the_order_of_a_step_does_not_overlap(overrides: list[str]) -> None:
    for choice in ("transfers", "full"):
        with pytest.raises(UserError, match=rf"roles\.overlap={choice}: .*set roles\.overlap=none"):
            load_config([], [*overrides, f"roles.overlap={choice}"])
    load_config([], [*overrides, "train.micro_batches=2"])


def test_heads_cannot_rest_where_rounds_draw_their_clients() -> None:
    with pytest.raises(UserError, match=r"set fed\.participation=1 or rest\.policy=never"):
        load_config([], ["codec=video", "rest.policy=every_k", "fed.participation=0.5"])


def test_heads_cannot_rest_where_clients_may_be_late() -> None:
    late = ["fed.straggler=deadline", "fed.deadline_seconds=1"]
    with pytest.raises(UserError, match=r"set rest\.policy=never or fed\.straggler=wait"):
        load_config([], ["codec=video", "rest.policy=every_k", *late])


def test_unequal_ranks_cannot_be_sent_as_changes_of_one_adapter() -> None:
    for key in ("fed.rank_aggregation=svd", "fed.rank_aggregation=stack", "lora.ranks=[8,4,2]"):
        with pytest.raises(UserError, match=r"set fed\.adapter_quantizer=none$"):
            load_config([], [key, "fed.adapter_quantizer=int8"])


@pytest.mark.parametrize("how", ["svd", "stack"])
def test_products_are_not_averaged_without_a_lost_rank(how: str) -> None:
    with pytest.raises(UserError, match=rf"^fed\.rank_aggregation={how}: .* set fed\.rank_aggregation=zero_pad or"):
        load_config([], [f"fed.rank_aggregation={how}", "fed.lost=go_on"])


@pytest.mark.parametrize("cuts", ["fed.cut_layers=[1,2,3]", "fed.cuts.policy=balance_time"])
def test_nothing_is_merged_where_cuts_differ(cuts: str) -> None:
    with pytest.raises(UserError, match=r"fed\.rank_aggregation=stack: where .* or equal cuts$"):
        load_config([], ["fed.rank_aggregation=stack", "fed.cuts.deepest=3", cuts])


def test_a_pool_is_not_divided_where_every_client_has_its_own_files() -> None:
    own = ["data.path=/silo/{client}", "data.validation_path=/silo"]
    load_config([], own)
    with pytest.raises(UserError, match=r"^data.partition=by_source: data.path holds \{client\}, so every client has"):
        load_config([], [*own, "data.partition=by_source"])


@pytest.mark.parametrize("key", sorted(CHOICES))
def test_a_value_outside_its_choices_lists_them(key: str) -> None:
    with pytest.raises(UserError, match=f"{key}=nonsense: choose one of {CHOICES[key][0]}"):
        load_config([], [f"{key}=nonsense"])


@pytest.mark.parametrize("key", sorted(AT_LEAST))
def test_a_value_below_its_least_is_refused(key: str) -> None:
    with pytest.raises(UserError, match=f"must be at least {AT_LEAST[key]}"):
        load_config([], [f"{key}={AT_LEAST[key] - 1}"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [", "not valid YAML"),
        ("- 1\n- 2\n", "the top level must be keys and values"),
        ("train: {lr: 1, lr: 2}\n", "not valid YAML"),
        ("include: [absent.yaml]\n", "absent.yaml: no such configuration file"),
        ("trian: {lr: 1}\n", "unknown key trian; did you mean train?"),
    ],
)
def test_broken_files_are_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_config([tmp_path / "broken.yaml"])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_constraints_name_keys_of_the_schema() -> None:
    keys = all_keys(Config())
    for key in (*CHOICES, *AT_LEAST):
        assert key in keys
        lookup(Config(), key)
