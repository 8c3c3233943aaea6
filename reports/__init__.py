"""From a run folder to tables, figures and a page. Reads the store only and never imports torch."""

from reports.load import MetricInfo, Run, load_run
from reports.write import write_report

__all__ = ["MetricInfo", "Run", "load_run", "write_report"]
