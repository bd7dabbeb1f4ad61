"""The sections of a report, in their order; each is a function of the context that returns blocks."""

from collections.abc import Callable

from moleflow_fast.report.context import Context
from moleflow_fast.report.document import Block
from moleflow_fast.report.sections.against_published import published_against_measured
from moleflow_fast.report.sections.combinations import combinations
from moleflow_fast.report.sections.components import components
from moleflow_fast.report.sections.continual import forgetting, routing
from moleflow_fast.report.sections.data_sets import classes, data_sets
from moleflow_fast.report.sections.hyperparameters import hyperparameters
from moleflow_fast.report.sections.overview import overview
from moleflow_fast.report.sections.ranking import ranking
from moleflow_fast.report.sections.recommendations import recommendations
from moleflow_fast.report.sections.rivals import rivals
from moleflow_fast.report.sections.time import time
from moleflow_fast.report.sections.trade_off import trade_off

SECTIONS: tuple[Callable[[Context], list[Block]], ...] = (
    overview,
    ranking,
    hyperparameters,
    components,
    combinations,
    trade_off,
    data_sets,
    classes,
    rivals,
    published_against_measured,
    forgetting,
    routing,
    time,
    recommendations,
)
