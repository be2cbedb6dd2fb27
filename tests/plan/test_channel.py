"""Drops, gains and rates, and that the bandwidth for a rate gives that rate."""

import numpy as np
import pytest

from splitcom_dist.plan.channel import ChannelConfig, bandwidth_for, drop_users, gains, rate, watts


def test_levels_in_dbm() -> None:
    assert watts(30) == pytest.approx(1)
    assert watts(10) == pytest.approx(0.01)
    assert ChannelConfig().noise_w_per_hz == pytest.approx(10**-20.4)


def test_a_seed_is_a_drop_and_the_path_loss_is_the_formula() -> None:
    still = ChannelConfig(shadowing_db=0)
    assert gains(still, np.array([1000.0, 100.0]), 0)[:, 0] == pytest.approx([10**-12.81, 10 ** -(12.81 - 3.76)])
    first, again, other = (drop_users(still, 500, seed) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()
    assert first.min() >= still.least_distance_m and first.max() <= 500 / np.sqrt(2)
    shadowed = gains(ChannelConfig(), first, 1)[:, 0] / gains(still, first, 1)[:, 0]
    assert np.std(10 * np.log10(shadowed)) == pytest.approx(8, rel=0.1)


def test_fading_is_of_a_subchannel_and_one_on_average() -> None:
    distances = np.full(400, 200.0)
    faded = gains(ChannelConfig(shadowing_db=0, fading=True), distances, 3, subchannels=50)
    flat = gains(ChannelConfig(shadowing_db=0), distances, 3, subchannels=50)
    assert (flat == flat[:, :1]).all()
    assert (faded / flat).mean() == pytest.approx(1, rel=0.05)


def test_the_bandwidth_for_a_rate_gives_that_rate_over_twelve_decades() -> None:
    snr = np.logspace(2, 12, 41)[:, None]
    wanted = snr / np.log(2) * np.array([1e-9, 1e-6, 1e-3, 0.1, 0.5, 0.9, 0.999, 1 - 1e-6])
    band = bandwidth_for(wanted, np.broadcast_to(snr, wanted.shape))
    assert rate(band, snr) == pytest.approx(wanted, rel=1e-9)


def test_no_bandwidth_gives_more_than_the_power_allows() -> None:
    snr = np.array([1e6])
    assert np.isinf(bandwidth_for(snr / np.log(2) * 1.0001, snr)).all()
    assert rate(1e15, snr) == pytest.approx(snr / np.log(2), rel=1e-6)
    assert rate(np.array([0.0]), snr) == 0
