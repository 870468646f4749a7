"""The domain of recoup: plan, stacks, clocks, records, verdicts. Imports no Prefect."""

__version__ = "0.1.0"
