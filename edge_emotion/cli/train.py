"""`edge-emotion train`: hands a training stage to `edge_emotion_train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from edge_emotion.cli.extras import import_from_extra


def train(
    stage: Annotated[str, Parameter(help="Name of the stage; a wrong one lists those that exist.")],
    /,
    *overrides: Annotated[str, Parameter(name="OVERRIDES", allow_leading_hyphen=True)],
    config: Annotated[Path, Parameter(help="YAML file of the stage.")],
) -> int:
    """Run one training stage (needs the extra "train").

    Parameters
    ----------
    overrides
        Options that replace what the file says, for example `--steps 100`.
    """
    import_from_extra("edge_emotion_train.stages", extra="train").run(stage, config, overrides)
    return 0
