"""The survey of the data that a config names, as it is now."""

from __future__ import annotations

from pathlib import Path

from xtuner.config.load import parse_config
from xtuner.errors import XTunerError
from xtuner.language import language, translate
from xtuner.survey.survey import Survey

MAX_CUT_SHARE = 0.05


def survey_of(text: str, filename: Path) -> tuple[list[Survey], str]:
    """A survey of each data set of a config's text, or none and why."""
    from xtuner.model.loading import register_families
    from xtuner.survey.configured import open_configured
    from xtuner.survey.survey import survey_all

    register_families()
    try:
        data = open_configured(parse_config(text, str(filename)))
        return survey_all(data, num_rows=1, index=0, max_cut_share=MAX_CUT_SHARE)[0], ""
    except (XTunerError, OSError) as error:
        return [], translate("the data cannot be read now: {error}", error=" ".join(str(error).split()))


def sections(surveys: list[Survey]) -> str:
    """The parts of a page about the data sets."""
    from xtuner.survey.page import data_set_section

    return "\n".join(data_set_section(survey, language()) for survey in surveys)
