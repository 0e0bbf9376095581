"""Whether all that was made of an engine's journals is what they give: ``tradeengine verify``, without its process."""

from __future__ import annotations

from collections.abc import Mapping

from tests.engines import SMALL, Engine

from tradeengine.actors.verifying.run import Report, verify
from tradeengine.settings_files import load_settings


def assert_verified(
    engine: Engine, environment: Mapping[str, str], *, from_snapshot: bool = False, whole: bool = True
) -> Report:
    """Verify beside a running engine: nothing may differ; and where its journals are whole, nothing may be left out.

    environment: its settings.
    """
    settings = load_settings(None, {"engine.data_dir": str(engine.data_dir)}, {**SMALL, **environment})
    report = verify(settings, engine.dsn, shard=None, from_snapshot=from_snapshot, is_live=True)
    assert (report.words, report.failed) == ([], [])
    assert report.unseen == [] or from_snapshot or not whole
    return report
