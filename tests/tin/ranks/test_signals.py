"""Stop signals, and the flags that ranks exchange from step to step."""

import os
import signal

import pytest
import torch
from rank_processes import finish, start_ranks

from tin.ranks.distributed import World, start
from tin.ranks.signals import FlagAllReduce, RankFlags, StopSignals

NO_FLAGS = RankFlags(stop=False, save=False, bad_frames=0)


def test_a_single_rank_reads_its_own_flags_once():
    flags = FlagAllReduce(World(0, 0, 1, torch.device("cpu")))
    assert flags.finish() == NO_FLAGS
    own = RankFlags(stop=False, save=True, bad_frames=2)
    flags.start(own)
    assert flags.finish() == own
    assert flags.finish() == NO_FLAGS


def test_all_ranks_read_the_combined_flags():
    assert finish(start_ranks(3, _exchange)) == [0, 0, 0]


def _exchange() -> None:
    """Stop on rank 1 alone, and count bad frames on ranks 1 and 2."""
    with start("cpu") as world:
        flags = FlagAllReduce(world)
        flags.start(RankFlags(stop=world.rank == 1, save=False, bad_frames=world.rank))
        assert flags.finish() == RankFlags(stop=True, save=False, bad_frames=3)


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_handlers_are_restored(number):
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert signals.received == ""
        os.kill(os.getpid(), number)
        assert signals.received == number.name
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_does_not_wait_for_the_step():
    with StopSignals(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_raises_immediately_if_asked():
    with StopSignals() as signals:
        with pytest.raises(ValueError, match="stopped"), signals.raising(ValueError("stopped")):
            os.kill(os.getpid(), signal.SIGTERM)
        # So does one that arrived before.
        with pytest.raises(ValueError, match="again"), signals.raising(ValueError("again")):
            pass
