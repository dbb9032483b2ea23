"""Runs a site's resources on one machine: the composition root of `up`.

Everything is built here from a `SitePlan`, handed down explicitly, started in the order of the flow
and stopped against it: first nothing new comes in, then what is in hand is finished, then the
database closes.
"""

from imaging_ingestion.site.addresses import RunningEntity, RunningProxy, RunningSite
from imaging_ingestion.site.running import run_site, running_site

__all__ = ["RunningEntity", "RunningProxy", "RunningSite", "run_site", "running_site"]
